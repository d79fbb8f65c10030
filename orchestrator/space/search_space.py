"""The search space: it maps a study's parameters to hyperparameters and task weights.

The `reference` of a space is the choice that a user would make without a search: uniform weights,
no distillation, no parameters per task. The best candidate is compared with the reference at tuned
rates.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from fewshot.learners.per_task import OWN
from orchestrator.space.choices import Choice, Conditions, WholeRange, active, is_number
from orchestrator.space.simplex import Simplex

Values = dict[str, Any]  # numbers, and the options of choices

SOFT_WEIGHT, TEMPERATURE = "distill/soft_weight", "distill/temperature"


@dataclass(frozen=True)
class Range:
    """A searched scalar: low < high, on a log scale if `log` (then low > 0)."""

    low: float
    high: float
    log: bool = False

    def __str__(self) -> str:
        return f"a number from {self.low:g} to {self.high:g}"

    def contains(self, value: object) -> bool:
        return is_number(value) and self.low <= value <= self.high

    def accepts(self, value: object) -> bool:
        """Whether `nearest` is defined."""
        return is_number(value)

    def nearest(self, value: float) -> float:
        """The value of the range that is nearest to `value`."""
        return self._within(float(value))

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
    choices: the searched options of the recipe. conditions: of ranges and choices that only some
        recipes read. A trial has no values of those that its recipe does not read.
    """

    ranges: Mapping[str, Range]
    fixed: Mapping[str, Any]
    weights: Simplex | Mapping[str, float]
    choices: Mapping[str, Choice | WholeRange] = field(default_factory=dict)
    conditions: Conditions = field(default_factory=dict)

    def parameters(self) -> dict[str, Range | Choice | WholeRange]:
        """The ranges and the choices."""
        return {**self.ranges, **self.choices}

    def box(self) -> dict[str, Range | Choice | WholeRange]:
        """The range of every searched parameter."""
        if not isinstance(self.weights, Simplex):
            return self.parameters()
        half = self.weights.box
        return self.parameters() | {name: Range(-half, half) for name in self.weights.names}

    def complete(self, params: Mapping[str, Any]) -> Values:
        """The parameters that a trial has, with middle values of those that are not given."""
        middle = {name: of.at(0.5) for name, of in self.box().items()}
        return self.active({**middle, **params})

    def active(self, params: Mapping[str, Any]) -> Values:
        """The parameters without those that the chosen recipe does not read."""
        return active(params, self.conditions)

    def chosen(self, params: Mapping[str, Any]) -> Values:
        """The options of the recipe that a trial's parameters choose."""
        return {name: params[name] for name in self.choices if name in params}

    def decode(self, params: Mapping[str, Any]) -> tuple[Values, Values]:
        """Hyperparameters and task weights for a trial's parameters."""
        read = self.active({**self.fixed, **params})
        hyperparameters = {name: read[name] for name in (*self.fixed, *self.ranges) if name in read}
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

    def is_reference(self, params: Mapping[str, Any]) -> bool:
        """Whether the parameters are those of the reference, with any rates."""
        read = self.active({**params, **self._reference})  # its recipe may not read all of them
        reference = {name: value for name, value in self._reference.items() if name in read}
        return bool(reference) and all(params.get(k) == v for k, v in reference.items())

    def with_weights(self, weights: Mapping[str, float]) -> Values:
        """The reference with these task weights and with rates in the middle of their ranges.

        Weights that are too small become zero; those outside the box are moved towards the prior.
        """
        assert isinstance(self.weights, Simplex), "the weights must be searched"
        shares = self.weights.group_shares(np.array([[weights[t] for t in self.weights.tasks]]))
        return self.rate_design(1, 0)[0] | self.weights.encode_nearest(shares[0])

    def mean(self, points: Sequence[Mapping[str, Any]]) -> Values:
        """The mean of several points: the mean of their task weights and of each scalar.

        Of several recipes only the points of the most frequent one are used.
        """
        points = self._of_one_recipe(points)
        named = {name: of for name, of in self.parameters().items() if name in points[0]}
        scalars: Values = {name: of.mean([p[name] for p in points]) for name, of in named.items()}
        if not isinstance(self.weights, Simplex):
            return scalars
        decoded = [self.weights.decode(p) for p in points]
        means = {task: sum(w[task] for w in decoded) / len(decoded) for task in self.weights.tasks}
        shares = self.weights.group_shares(np.array([list(means.values())]))[0]
        return self.weights.encode_nearest(shares) | scalars

    def _of_one_recipe(self, points: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        chosen = [
            tuple(p.get(name) for name in self.choices if self.is_nominal(name)) for p in points
        ]
        ((usual, _),) = Counter(chosen).most_common(1)
        return [p for p, own in zip(points, chosen, strict=True) if own == usual]

    def is_nominal(self, name: str) -> bool:
        """Whether a parameter is a choice without an order."""
        return isinstance(self.choices.get(name), Choice)

    def rates(self) -> tuple[str, ...]:
        """The searched scalars that the reference does not define."""
        return tuple(name for name in self.ranges if name not in self.reference())

    def rate_design(self, n: int, seed: int) -> list[Values]:
        """n points of the reference with rates and choices spread evenly over their ranges.

        One point if there are neither. Two or more rates are spread more densely in the middle of
        their ranges, see `_inward`; then the first n points of a longer design are these.
        """
        names, spread = (*self.rates(), *self.choices), self.parameters()
        if not names:  # nothing to tune
            return [self.active(self.reference())]
        if len(names) == 1:  # equal distances, the middle first
            order = sorted(range(n), key=lambda i: abs(i - (n - 1) / 2))
            points = [[(i + 0.5) / n] for i in order]
        else:
            from scipy.stats import qmc  # importing it takes a second

            # Sobol points are balanced only for powers of two; the first n points are the same.
            drawn = qmc.Sobol(len(names), seed=seed).random(1 << (n - 1).bit_length())
            points = [
                [
                    _inward(x) if name in self.ranges else x
                    for name, x in zip(names, at, strict=True)
                ]
                for at in drawn[:n].tolist()
            ]
        return [
            self.active(
                self.reference()
                | {name: spread[name].at(x) for name, x in zip(names, point, strict=False)}
            )
            for point in points
        ]


def _inward(share: float) -> float:
    """A share of a range, moved to its middle; uniform shares get the density 6 x (1 - x).

    A point near an end of the range tells of less of it than one further inside, so a few points
    come nearer to the best value, wherever it is. And people choose ranges around what they expect.
    """
    return 0.5 - math.sin(math.asin(1 - 2 * share) / 3)
