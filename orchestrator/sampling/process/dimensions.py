"""Optuna's distributions as intervals from 0 to 1."""

import math
from typing import Any, Protocol

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from orchestrator.space.search_space import Range

Array = np.ndarray


class Dimension(Protocol):
    """One parameter. Positions are in [0, 1]."""

    width: int  # number of features
    nominal: bool  # whether values have no order

    def position(self, value: Any) -> float:
        """A position of a value."""

    def value(self, position: float) -> Any:
        """The value at a position."""

    def features(self, positions: Array) -> Array:
        """What a model sees of positions (n,): (n, width), the same for positions of one value."""


class Numeric:
    """A real or whole number, on a logarithmic scale or with a step if the distribution has one."""

    width, nominal = 1, False

    def __init__(self, of: FloatDistribution | IntDistribution) -> None:
        self._of = of
        low, high = float(of.low), float(of.high)
        self._whole = isinstance(of, IntDistribution)
        if self._whole and of.log:  # each whole number has the positions that round to it
            low, high = low - 0.5, high + 0.5
        self._range = Range(low, high, of.log)
        step = None if of.log else of.step
        self._levels = None if step is None else round((high - low) / step)

    def position(self, value: float) -> float:
        if self._of.single():
            return 0.5
        return min(max(self._range.share(float(value)), 0.0), 1.0)

    def value(self, position: float) -> float | int:
        of = self._of
        if self._levels:
            position = round(position * self._levels) / self._levels
        found = min(max(self._range.at(position), of.low), of.high)
        return round(found) if self._whole else found

    def features(self, positions: Array) -> Array:
        if self._levels is None and not self._whole:
            return positions[:, None]
        return np.array([[self.position(self.value(p))] for p in positions]).reshape(-1, 1)


class Categorical:
    """One of several choices without an order; the features are one-hot."""

    nominal = True

    def __init__(self, of: CategoricalDistribution) -> None:
        self._of, self.width = of, len(of.choices)

    def position(self, value: Any) -> float:
        index: int = self._of.to_internal_repr(value)  # type: ignore[assignment]
        return (index + 0.5) / self.width

    def value(self, position: float) -> Any:
        return self._of.choices[self._index(position)]

    def values(self, positions: Array) -> list[Any]:
        """The values at positions (n,)."""
        return [self.value(float(position)) for position in positions]

    def _index(self, position: float) -> int:
        return min(int(position * self.width), self.width - 1)

    def features(self, positions: Array) -> Array:
        places = [self._index(float(position)) for position in positions]
        # Two different choices are as far apart as the ends of a range.
        return np.eye(self.width)[places].reshape(-1, self.width) / math.sqrt(2)


def dimension(of: BaseDistribution) -> Dimension:
    """The dimension of a distribution."""
    if isinstance(of, CategoricalDistribution):
        return Categorical(of)
    assert isinstance(of, FloatDistribution | IntDistribution), "Optuna has no other distributions"
    return Numeric(of)
