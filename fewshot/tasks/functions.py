"""Families of functions of one variable, for an unlimited number of regression problems.

A task is a family. An episode is one function y = f(x) of the family at random x ~ U[-5, 5]. The
sinusoids are those of Finn, Abbeel and Levine, "Model-agnostic meta-learning for fast adaptation of
deep networks", ICML 2017.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType

import torch
from torch import Tensor

from fewshot.episodes import Episode
from fewshot.kinds import REGRESSION, Kind
from fewshot.losses.normalise import check_null_losses
from fewshot.randomness import fold, uniform
from fewshot.tasks.base import episode_keys

_LOW, _HIGH = -5.0, 5.0
# Size of the sample that estimates the variance of a family, to about one per cent.
_FUNCTIONS, _POINTS = 1 << 14, 64

# (x (..., n), keys (...)) -> values (..., n) at x of one function per key.
Family = Callable[[Tensor, Tensor], Tensor]


def _between(key: Tensor, *ranges: tuple[float, float]) -> list[Tensor]:
    """One uniform number (..., 1) from each range."""
    drawn = uniform(key, len(ranges)).split(1, -1)
    return [low + (high - low) * u for u, (low, high) in zip(drawn, ranges, strict=True)]


def sinusoid(x: Tensor, key: Tensor) -> Tensor:
    """A sin(x - b), A ~ U[0.1, 5], b ~ U[0, pi]."""
    amplitude, phase = _between(key, (0.1, 5), (0, math.pi))
    return amplitude * torch.sin(x - phase)


def sin3x(x: Tensor, key: Tensor) -> Tensor:
    """A sinusoid with three times the frequency: A sin(3x - b)."""
    return sinusoid(3 * x, key)


def square(x: Tensor, key: Tensor) -> Tensor:
    """A square wave: A sign(sin(x - b))."""
    amplitude, phase = _between(key, (0.1, 5), (0, math.pi))
    return amplitude * torch.sin(x - phase).sign()


def line(x: Tensor, key: Tensor) -> Tensor:
    """a x + b, a ~ U[-1, 1], b ~ U[-2, 2]."""
    slope, intercept = _between(key, (-1, 1), (-2, 2))
    return slope * x + intercept


def quadratic(x: Tensor, key: Tensor) -> Tensor:
    """a x^2 + b x + c, a ~ U[-0.2, 0.2], b ~ U[-1, 1], c ~ U[-2, 2]."""
    a, b, c = _between(key, (-0.2, 0.2), (-1, 1), (-2, 2))
    return a * x.square() + b * x + c


def noise(x: Tensor, key: Tensor) -> Tensor:
    """Independent N(0, 3^2) noise at every x; there is nothing to learn."""
    n = x.shape[-1]
    radius = (-2 * (1 - uniform(fold(key, 0), n)).log()).sqrt()
    return 3 * radius * (2 * math.pi * uniform(fold(key, 1), n)).cos()


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "sinusoid": sinusoid,
        "sin3x": sin3x,
        "square": square,
        "line": line,
        "quadratic": quadratic,
        "noise": noise,
    }
)


def sample(family: Family, keys: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Points x and values y, both (..., n), of one function for each key (...)."""
    x = _LOW + (_HIGH - _LOW) * uniform(fold(keys, 0), n)
    return x, family(x, fold(keys, 1))


@cache
def variance(family: Family) -> float:
    """The variance of the values of a family, estimated from a fixed sample.

    It is the mean squared error of the best constant predictor.
    """
    keys = fold(torch.tensor(0), torch.arange(_FUNCTIONS))
    return sample(family, keys, _POINTS)[1].double().var().item()


@dataclass(frozen=True, eq=False)
class FunctionPool:
    """A `Pool` of t families, with `shot` points for support and `query` points to predict."""

    names: tuple[str, ...]
    families: tuple[Family, ...]
    null_losses: Tensor
    shot: int
    query: int

    @property
    def kind(self) -> Kind:
        return REGRESSION

    @property
    def features(self) -> tuple[int, ...]:
        return (1,)

    @property
    def sizes(self) -> dict[str, int]:
        return {}

    def draw(self, keys: Tensor, episodes: int) -> Episode:
        """`episodes` episodes of each task for each key: keys (...) -> (..., t, episodes, ...)."""
        of_task = episode_keys(keys, len(self.names), episodes).unbind(-2)
        drawn = [
            torch.stack(sample(family, own, self.shot + self.query))
            for family, own in zip(self.families, of_task, strict=True)
        ]
        return self._episode(torch.stack(drawn, -3))  # (2, ..., t, episodes, shot + query)

    def draw_of(self, keys: Tensor, task: Tensor) -> Episode:
        """One episode of the task (...) for each key (...). All families are drawn, one is used."""
        n = self.shot + self.query
        drawn = torch.stack([torch.stack(sample(f, keys, n)) for f in self.families], -2)
        chosen = task[..., None, None].expand(*keys.shape, 1, n)
        return self._episode(drawn.gather(-2, chosen.expand(2, *chosen.shape)).squeeze(-2))

    def _episode(self, points: Tensor) -> Episode:
        """An episode from the stacked x and y, (2, ..., shot + query)."""
        x, y = points.unsqueeze(-1)
        return Episode(
            x[..., : self.shot, :],
            y[..., : self.shot, :],
            x[..., self.shot :, :],
            y[..., self.shot :, :],
        )

    def to(self, device: torch.device) -> "FunctionPool":
        return replace(self, null_losses=self.null_losses.to(device))


def function_pool(
    names: Sequence[str], families: Sequence[Family], *, shot: int, query: int
) -> FunctionPool:
    """The pool of the tasks `names` with their `families`.

    Raises InputError if a family has no variance, because there is nothing to learn.
    """
    variances = [variance(family) for family in families]
    check_null_losses(names, variances)
    return FunctionPool(tuple(names), tuple(families), torch.tensor(variances), shot, query)
