"""The search space: it maps a study's parameters to hyperparameters and task weights.

The `reference` of a space is the choice that a user would make without a search: uniform weights,
no distillation, no parameters per task. The best candidate is compared with the reference at tuned
rates.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fewshot.learners.per_task import OWN
from orchestrator.space.simplex import Simplex

Values = dict[str, float]

SOFT_WEIGHT, TEMPERATURE = "distill/soft_weight", "distill/temperature"


@dataclass(frozen=True)
class Range:
    """A searched scalar: low < high, on a log scale if `log` (then low > 0)."""

    low: float
    high: float
    log: bool = False

    def mean(self, values: Sequence[float]) -> float:
        """The mean of values on the scale of the range: geometric if `log`, else arithmetic."""
        scaled = [math.log(value) for value in values] if self.log else values
        mean = sum(scaled) / len(scaled)
        return self._within(math.exp(mean) if self.log else mean)

    def at(self, share: float) -> float:
        """The value at `share` in [0, 1] of the range: low at 0, high at 1."""
        if self.log:
            value = float(self.low * (self.high / self.low) ** share)
        else:
            value = self.low + (self.high - self.low) * share
        return self._within(value)

    def share(self, value: float) -> float:
        """The share of the range at `value`: the inverse of `at`."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def _within(self, value: float) -> float:
        return min(max(value, self.low), self.high)


@dataclass(frozen=True)
class SearchSpace:
    """The hyperparameters and the task weights of a search.

    ranges: the searched scalars. fixed: the other scalars. weights: a simplex, or fixed weights.
    """

    ranges: Mapping[str, Range]
    fixed: Mapping[str, float]
    weights: Simplex | Mapping[str, float]

    def box(self) -> dict[str, Range]:
        """The range of every searched parameter."""
        if not isinstance(self.weights, Simplex):
            return dict(self.ranges)
        half = self.weights.box
        return dict(self.ranges) | {name: Range(-half, half) for name in self.weights.names}

    def decode(self, params: Mapping[str, float]) -> tuple[Values, Values]:
        """Hyperparameters and task weights for a trial's parameters."""
        hyperparameters = dict(self.fixed) | {name: params[name] for name in self.ranges}
        if isinstance(self.weights, Simplex):
            return hyperparameters, self.weights.decode(params)
        return hyperparameters, dict(self.weights)

    def reference(self) -> Values:
        """The parameters that define the reference; empty if only rates are searched."""
        return dict(self._reference)

    @cached_property
    def _reference(self) -> Values:
        params: Values = {}
        if isinstance(self.weights, Simplex):
            tasks = self.weights.tasks
            params |= self.weights.encode(dict.fromkeys(tasks, 1 / len(tasks)))
        if SOFT_WEIGHT in self.ranges:
            params[SOFT_WEIGHT] = self.ranges[SOFT_WEIGHT].low
            if TEMPERATURE in self.ranges:
                params[TEMPERATURE] = self.ranges[TEMPERATURE].low
        if OWN in self.ranges:
            params[OWN] = self.ranges[OWN].low
        return params

    def is_reference(self, params: Mapping[str, float]) -> bool:
        """Whether the parameters are those of the reference, with any rates."""
        reference = self._reference
        return bool(reference) and all(params[k] == v for k, v in reference.items())

    def with_weights(self, weights: Mapping[str, float]) -> Values:
        """The reference with these task weights and with rates in the middle of their ranges.

        Weights that are too small become zero; those outside the box are moved towards the prior.
        """
        assert isinstance(self.weights, Simplex), "the weights must be searched"
        shares = self.weights.group_shares(np.array([[weights[t] for t in self.weights.tasks]]))
        return self.rate_design(1, 0)[0] | self.weights.encode_nearest(shares[0])

    def mean(self, points: Sequence[Mapping[str, float]]) -> Values:
        """The mean of several points: the mean of their task weights and of each scalar."""
        scalars = {name: r.mean([p[name] for p in points]) for name, r in self.ranges.items()}
        if not isinstance(self.weights, Simplex):
            return scalars
        decoded = [self.weights.decode(p) for p in points]
        means = {task: sum(w[task] for w in decoded) / len(decoded) for task in self.weights.tasks}
        shares = self.weights.group_shares(np.array([list(means.values())]))[0]
        return self.weights.encode_nearest(shares) | scalars

    def rates(self) -> tuple[str, ...]:
        """The searched scalars that the reference does not define."""
        return tuple(name for name in self.ranges if name not in self.reference())

    def rate_design(self, n: int, seed: int) -> list[Values]:
        """n points of the reference with rates spread evenly over their ranges."""
        names = self.rates()
        if len(names) == 1:  # equal distances, the middle first
            order = sorted(range(n), key=lambda i: abs(i - (n - 1) / 2))
            points = [[(i + 0.5) / n] for i in order]
        else:
            from scipy.stats import qmc  # importing it takes a second

            # Sobol points are balanced only for powers of two; the first n points are the same.
            drawn = qmc.Sobol(max(1, len(names)), seed=seed).random(1 << (n - 1).bit_length())
            points = drawn[:n].tolist()
        return [
            self.reference()
            | {name: self.ranges[name].at(x) for name, x in zip(names, point, strict=False)}
            for point in points
        ]
