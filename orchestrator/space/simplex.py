"""Task weights on the probability simplex, as isometric log-ratio coordinates.

z = B^T clr(w / q), with clr(x) = log x - mean(log x), q the prior and B an orthonormal basis of the
vectors that sum to zero. z = 0 is the prior. Distances do not depend on the order of the tasks. The
map has an exact inverse, so any weights can be added to a search as a trial.

Tasks can share a weight in a group, for example tasks that are very similar. Then w and q are the
weights of the groups, and each of the n tasks of a group has the share 1/n of the group's weight.
Groups reduce the number of coordinates.

Egozcue et al., "Isometric logratio transformations for compositional data analysis", 2003.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from optuna.trial import Trial

# Half the width of the box of coordinates, if `zero_below` is 0.
_HALF_WIDTH = 3.5
# `encode_nearest` mixes these parts of the shares with the prior, in this order.
_KEPT = (1.0, 0.99, 0.95, 0.9, 0.75, 0.6, 0.45, 0.3, 0.15)


def shared(weights: Mapping[str, float], groups: Sequence[str]) -> dict[str, float]:
    """Task weights, averaged within each group; `groups` has one group name per task."""
    names = np.array(groups)
    w = np.array(list(weights.values()))
    return {
        task: float(w[names == group].mean()) for task, group in zip(weights, groups, strict=True)
    }


@dataclass(frozen=True)
class Simplex:
    """Weights of tasks in d >= 2 groups, >= 0 with sum 1, from d - 1 coordinates.

    prior: the weights at zero coordinates; each > 0, sum 1, equal within a group.
    half_width: > 0, half the width of the box of coordinates; by default the box contains all
    weights that `zero_below` allows, and 3.5 is used if `zero_below` is 0.
    zero_below: in [0, 1 / number of tasks). Smaller weights become exactly zero, and the others are
    rescaled to sum 1.
    groups: the group name of each task; empty if each task is its own group.
    """

    tasks: tuple[str, ...]
    prior: tuple[float, ...]
    half_width: float | None = None
    zero_below: float = 0.0
    groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        d = len(self.tasks)
        if len(set(self.groups or self.tasks)) < 2 or len(self.prior) != d:
            raise ValueError(
                f"A simplex needs two tasks or groups, and a prior for each task, got {self!r}."
            )
        if self.groups and len(self.groups) != d:
            raise ValueError(f"`groups` must have one name per task, got {self.groups}.")
        if min(self.prior) <= 0 or not math.isclose(sum(self.prior), 1.0, abs_tol=1e-9):
            raise ValueError(f"`prior` must be positive and sum to 1, got {self.prior}.")
        too_narrow = self.half_width is not None and self.half_width <= 0
        if too_narrow or not 0 <= self.zero_below < 1 / d:
            raise ValueError(
                f"`half_width` must be > 0 and `zero_below` in [0, 1/{d}), got {self!r}."
            )

    @cached_property
    def box(self) -> float:
        """Half the width of the box of coordinates."""
        if self.half_width is not None:
            return self.half_width
        if not self.zero_below:
            return _HALF_WIDTH
        d = len(self.names) + 1
        # In the Helmert basis, a coordinate of logarithms from an interval is at most this share of
        # the interval's length.
        ratio = (1 / self._zero) * max(self.prior) / min(self.prior)
        return math.log(ratio) * math.sqrt((d - 1) / d)

    @property
    def _zero(self) -> float:
        """The least weight that encodes a zero beside weights of at least `_least`."""
        t = len(self.tasks)
        return 0.99 * self.zero_below / 2 / (1 + t * self.zero_below / 2)

    @property
    def _least(self) -> float:
        """Weights of at least this can be encoded beside any zeros."""
        return self.zero_below * (1 + len(self.tasks) * self.zero_below / 2)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the coordinates."""
        return tuple(f"lambda.ilr{j}" for j in range(1, len(set(self.groups or self.tasks))))

    @cached_property
    def _group_of(self) -> np.ndarray:
        """The index of each task's group."""
        number: dict[str, int] = {}
        return np.array([number.setdefault(g, len(number)) for g in self.groups or self.tasks])

    @cached_property
    def _firsts(self) -> np.ndarray:
        """The index of the first task of each group."""
        return np.asarray(np.unique(self._group_of, return_index=True)[1])

    @cached_property
    def basis(self) -> np.ndarray:
        """The Helmert basis: orthonormal columns (d, d - 1), each of which sums to zero."""
        d = len(self.names) + 1
        basis = np.zeros((d, d - 1))
        for j in range(1, d):
            basis[:j, j - 1] = 1.0 / j
            basis[j, j - 1] = -1.0
            basis[:, j - 1] *= math.sqrt(j / (j + 1.0))
        return basis

    def decode(self, coordinates: Mapping[str, float]) -> dict[str, float]:
        """The weight of each task."""
        z = np.array([coordinates[name] for name in self.names])
        logits = (self.basis @ z)[self._group_of] + np.log(self.prior)
        weights = np.exp(logits - logits.max())
        weights /= weights.sum()
        weights[weights < self.zero_below] = 0.0
        weights /= weights.sum()
        return dict(zip(self.tasks, weights.tolist(), strict=True))

    def suggest(self, trial: Trial) -> dict[str, float]:
        """The weights of an Optuna trial, whose parameters are the coordinates."""
        box = self.box
        return self.decode({name: trial.suggest_float(name, -box, box) for name in self.names})

    def encode(self, weights: Mapping[str, float]) -> dict[str, float]:
        """The coordinates that `decode` maps to `weights`.

        Raises ValueError if no coordinates exist: the weights do not sum to 1; they differ within a
        group; a weight is zero but `zero_below` is 0; a positive weight is smaller than
        `zero_below`; or the box is too small.
        """
        w = np.array([weights.get(task, 0.0) for task in self.tasks])
        if w.min() < 0 or not math.isclose(w.sum(), 1.0, abs_tol=1e-6):
            raise ValueError(f"Weights must be >= 0 and sum to 1, got {dict(weights)}.")
        # A zero is encoded as half of `zero_below`. The positive weights are rescaled, and must
        # stay above `zero_below`; if they would not, a smaller value is used.
        is_zero = w <= 0
        if is_zero.any():
            room = 1 - self.zero_below / w[~is_zero].min()
            zero = min(self.zero_below / 2, 0.99 * room / is_zero.sum())
            w = np.where(is_zero, zero, w * (1 - is_zero.sum() * zero))
        if w.min() <= 0:
            raise ValueError("A weight of zero needs `zero_below` > 0.")
        firsts = self._firsts
        if self.groups and not np.allclose(w, w[firsts][self._group_of], rtol=1e-6):
            raise ValueError(f"Weights must be equal within a group, got {dict(weights)}.")
        logs = (np.log(w) - np.log(self.prior))[firsts]
        z = self.basis.T @ (logs - logs.mean())
        if np.abs(z).max() > self.box:
            raise ValueError(
                f"`half_width` must be at least {np.abs(z).max():.2f} for the weights "
                f"{dict(weights)}, got {self.box}."
            )
        coordinates = dict(zip(self.names, z.tolist(), strict=True))
        decoded = self.decode(coordinates)
        if any(abs(decoded[t] - weights.get(t, 0.0)) > 1e-6 for t in self.tasks):
            raise ValueError(
                f"Positive weights must not be below `zero_below` = {self.zero_below}, "
                f"got {dict(weights)}."
            )
        return coordinates

    def group_shares(self, weights: np.ndarray) -> np.ndarray:
        """The shares (n, d) of the groups for task weights (n, t)."""
        return np.asarray(weights @ np.eye(len(self.names) + 1)[self._group_of])

    def without_small(self, shares: np.ndarray) -> np.ndarray:
        """Shares (n, d) of the groups; those that can't be encoded become zero, but never all."""
        sizes = np.bincount(self._group_of)
        kept = np.where(shares / sizes < self._least, 0.0, shares)
        # All can be small if `zero_below` is near the uniform weight; then the largest are kept.
        above = np.where(shares / sizes < self.zero_below, 0.0, shares)
        kept = np.where(kept.sum(1, keepdims=True) > 0, kept, above)
        kept = np.where(kept.sum(1, keepdims=True) > 0, kept, shares)
        return np.asarray(kept / kept.sum(1, keepdims=True))

    def encode_nearest(self, shares: np.ndarray) -> dict[str, float]:
        """Coordinates of the shares (d,) of the groups, or of near ones if they have none.

        Shares that are too small become zero. Shares that can't be encoded are mixed with more and
        more of the prior; in the last resort the result is the prior.
        """
        sizes = np.bincount(self._group_of)
        prior = self.group_shares(np.array([self.prior]))
        for kept in _KEPT:
            moved = self.without_small(kept * shares + (1 - kept) * prior)[0] / sizes
            try:
                return self.encode(dict(zip(self.tasks, moved[self._group_of], strict=True)))
            except ValueError:
                continue
        return dict.fromkeys(self.names, 0.0)
