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

import numpy as np


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
    half_width: > 0, half the width of the box of coordinates. Use about 3.5 if few tasks may
    matter, 2 if most do.
    zero_below: in [0, 1 / number of tasks). Smaller weights become exactly zero, and the others are
    rescaled to sum 1.
    groups: the group name of each task; empty if each task is its own group.
    """

    tasks: tuple[str, ...]
    prior: tuple[float, ...]
    half_width: float = 3.5
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
        if self.half_width <= 0 or not 0 <= self.zero_below < 1 / d:
            raise ValueError(
                f"`half_width` must be > 0 and `zero_below` in [0, 1/{d}), got {self!r}."
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the coordinates."""
        return tuple(f"lambda.ilr{j}" for j in range(1, len(set(self.groups or self.tasks))))

    def _group_of(self) -> np.ndarray:
        """The index of each task's group."""
        number: dict[str, int] = {}
        return np.array([number.setdefault(g, len(number)) for g in self.groups or self.tasks])

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
        logits = (self.basis() @ z)[self._group_of()] + np.log(self.prior)
        weights = np.exp(logits - logits.max())
        weights /= weights.sum()
        weights[weights < self.zero_below] = 0.0
        weights /= weights.sum()
        return dict(zip(self.tasks, weights.tolist(), strict=True))

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
        group_of = self._group_of()
        firsts = np.unique(group_of, return_index=True)[1]
        if not np.allclose(w, w[firsts][group_of], rtol=1e-6):
            raise ValueError(f"Weights must be equal within a group, got {dict(weights)}.")
        logs = (np.log(w) - np.log(self.prior))[firsts]
        z = self.basis().T @ (logs - logs.mean())
        if np.abs(z).max() > self.half_width:
            raise ValueError(
                f"`half_width` must be at least {np.abs(z).max():.2f} for the weights "
                f"{dict(weights)}, got {self.half_width}."
            )
        coordinates = dict(zip(self.names, z.tolist(), strict=True))
        decoded = self.decode(coordinates)
        if any(abs(decoded[t] - weights.get(t, 0.0)) > 1e-6 for t in self.tasks):
            raise ValueError(
                f"Positive weights must not be below `zero_below` = {self.zero_below}, "
                f"got {dict(weights)}."
            )
        return coordinates
