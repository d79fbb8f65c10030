"""Searched options that are no real numbers, and the conditions under which they are read."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

Option = str | int | float | bool


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value is a finite number; true and false are none."""
    is_real = isinstance(value, int | float) and not isinstance(value, bool)
    return is_real and math.isfinite(value)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Choice:
    """One of several options without an order; all different, at least two."""

    options: tuple[Option, ...]

    def __str__(self) -> str:
        return f"one of {', '.join(map(str, self.options))}"

    def contains(self, value: object) -> bool:
        return value in self.options

    def accepts(self, value: object) -> bool:
        """Whether `nearest` is defined."""
        return value in self.options

    def nearest(self, value: Any) -> Option:
        """The option that equals `value`, which may have another type: 2 for 2.0."""
        return self.options[self.options.index(value)]

    def at(self, share: float) -> Option:
        """The option at `share` in [0, 1] of the list."""
        return self.options[min(int(share * len(self.options)), len(self.options) - 1)]

    def mean(self, values: Sequence[Option]) -> Option:
        """The most frequent value; of several the first."""
        return Counter(values).most_common(1)[0][0]


@dataclass(frozen=True)
class WholeRange:
    """A whole number: low, low + step, .., high; low < high, and step divides high - low."""

    low: int
    high: int
    step: int = 1

    def __str__(self) -> str:
        steps = f" in steps of {self.step}" if self.step > 1 else ""
        return f"a whole number from {self.low} to {self.high}{steps}"

    def contains(self, value: object) -> bool:
        return is_number(value) and value in range(self.low, self.high + 1, self.step)

    def accepts(self, value: object) -> bool:
        """Whether `nearest` is defined."""
        return is_number(value)

    def nearest(self, value: float) -> int:
        """The number of the range that is nearest to `value`."""
        return self.mean([min(max(value, self.low), self.high)])

    def at(self, share: float) -> int:
        """The number at `share` in [0, 1] of the range; each has an equal part of it."""
        n = (self.high - self.low) // self.step + 1
        return self.low + self.step * min(int(share * n), n - 1)

    def mean(self, values: Sequence[float]) -> int:
        """The number of the range that is nearest to the arithmetic mean."""
        above = sum(values) / len(values) - self.low
        return self.low + self.step * round(above / self.step)


@dataclass(frozen=True)
class Condition:
    """A parameter is read only if the parameter `of` has one of the `values`."""

    of: str
    values: tuple[Option, ...]


def may_be(conditions: Iterable[Condition], options: Mapping[str, Any]) -> bool:
    """Whether the options of a trial satisfy all conditions; one that it lacks does not matter."""
    return all(c.of not in options or options[c.of] in c.values for c in conditions)


Conditions = Mapping[str, tuple[Condition, ...]]  # by parameter; all of them must hold


def active(params: Mapping[str, Any], conditions: Conditions) -> dict[str, Any]:
    """The parameters that are read, given the values of all those that they depend on."""

    def read(name: str) -> bool:
        return all(params.get(c.of) in c.values and read(c.of) for c in conditions.get(name, ()))

    return {name: value for name, value in params.items() if read(name)}
