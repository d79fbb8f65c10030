"""Optuna's distributions as intervals from 0 to 1."""

import math
from collections.abc import Sequence
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
        if self._of.single():
            return np.full((len(positions), 1), self.position(self._of.low))
        # Positions with one of these numbers have the same value, which is computed once.
        if self._levels:
            numbers = np.rint(positions * self._levels)
        else:
            ratio = self._range.high / self._range.low
            numbers = np.rint(self._range.low * ratio**positions)
        _, first, of = np.unique(numbers, return_index=True, return_inverse=True)
        seen = [self.position(self.value(float(position))) for position in positions[first]]
        return np.array(seen)[of].reshape(-1, 1)


class Categorical:
    """One of several choices without an order; the features are one-hot."""

    nominal = True

    def __init__(self, of: CategoricalDistribution) -> None:
        self._of, self.width = of, len(of.choices)

    def position(self, value: Any) -> float:
        index: int = self._of.to_internal_repr(value)  # type: ignore[assignment]
        return (index + 0.5) / self.width

    def value(self, position: float) -> Any:
        return self._of.choices[min(int(position * self.width), self.width - 1)]

    def among(self, values: Sequence[Any], positions: Array) -> Array:
        """Which of the positions (n,) have one of the values, (n,) bool."""
        wanted = np.array([choice in values for choice in self._of.choices])
        return np.asarray(wanted[self._indices(positions)])

    def _indices(self, positions: Array) -> Array:
        return np.asarray(np.minimum((positions * self.width).astype(int), self.width - 1))

    def features(self, positions: Array) -> Array:
        # Two different choices are as far apart as the ends of a range.
        return np.asarray(np.eye(self.width)[self._indices(positions)] / math.sqrt(2))


def dimension(of: BaseDistribution) -> Dimension:
    """The dimension of a distribution."""
    if isinstance(of, CategoricalDistribution):
        return Categorical(of)
    assert isinstance(of, FloatDistribution | IntDistribution), "Optuna has no other distributions"
    return Numeric(of)
