"""Task weights on the probability simplex, as isometric log-ratio coordinates.

z = B^T clr(w / q), with clr(x) = log x - mean(log x), q the prior and B an orthonormal basis of the
plane that sums to zero: z = 0 is the prior, distances do not depend on the order of the tasks, and
the map has an exact inverse, so that any weights can be given to a search as a trial.

Tasks may share a weight in groups: w and q are then those of the groups, each of whose n tasks has
an n-th of it. There are fewer coordinates, and a group can be of tasks that are much alike.

Egozcue et al., "Isometric logratio transformations for compositional data analysis", 2003.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


def shared(weights: Mapping[str, float], groups: Sequence[str]) -> dict[str, float]:
    """The weights of tasks, those of each group made equal; `groups` has one name for each task."""
    names = np.array(groups)
    w = np.array(list(weights.values()))
    return {
        task: float(w[names == group].mean()) for task, group in zip(weights, groups, strict=True)
    }


@dataclass(frozen=True)
class Simplex:
    """Weights of tasks in d >= 2 groups, >= 0 with sum 1, from d - 1 coordinates.

    prior: a weight > 0 for each task with sum 1, equal in a group, where the coordinates are zero.
    half_width: > 0, of the box of coordinates. About 3.5 finds that few tasks matter, 2 that most
    do.
    zero_below: in [0, 1 / number of tasks). A smaller weight is exactly zero, and the others share
    what it had.
    groups: for each task the name of its group; without them each is one of its own.
    """

    tasks: tuple[str, ...]
    prior: tuple[float, ...]
    half_width: float = 3.5
    zero_below: float = 0.0
    groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        d = len(self.tasks)
        if len(set(self.groups or self.tasks)) < 2 or len(self.prior) != d:
            raise ValueError(f"A simplex needs two tasks and a prior for each, got {self!r}.")
        if self.groups and len(self.groups) != d:
            raise ValueError(f"`groups` must have a name for each task, got {self.groups}.")
        if min(self.prior) <= 0 or not math.isclose(sum(self.prior), 1.0, abs_tol=1e-9):
            raise ValueError(f"`prior` must be positive and sum to 1, got {self.prior}.")
        if self.half_width <= 0 or not 0 <= self.zero_below < 1 / d:
            raise ValueError(f"`half_width` > 0, `zero_below` in [0, 1/{d}), got {self!r}.")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the coordinates."""
        return tuple(f"lambda.ilr{j}" for j in range(1, len(set(self.groups or self.tasks))))

    def _group_of(self) -> np.ndarray:
        """The number of each task's group."""
        number: dict[str, int] = {}
        return np.array([number.setdefault(g, len(number)) for g in self.groups or self.tasks])

    def basis(self) -> np.ndarray:
        """Orthonormal columns (d, d - 1), each of which sums to zero (Helmert's)."""
        d = len(self.names) + 1
        basis = np.zeros((d, d - 1))
        for j in range(1, d):
            basis[:j, j - 1] = 1.0 / j
            basis[j, j - 1] = -1.0
            basis[:, j - 1] *= math.sqrt(j / (j + 1.0))
        return basis

    def decode(self, coordinates: Mapping[str, float]) -> dict[str, float]:
        """Weight of each task."""
        z = np.array([coordinates[name] for name in self.names])
        logits = (self.basis() @ z)[self._group_of()] + np.log(self.prior)
        weights = np.exp(logits - logits.max())
        weights /= weights.sum()
        weights[weights < self.zero_below] = 0.0
        weights /= weights.sum()
        return dict(zip(self.tasks, weights.tolist(), strict=True))

    def encode(self, weights: Mapping[str, float]) -> dict[str, float]:
        """Coordinates that `decode` to `weights`.

        Raises ValueError if there are none: the weights do not sum to 1, differ in a group, a
        weight is zero or smaller than `zero_below` though that is impossible, or the box is too
        small.
        """
        w = np.array([weights.get(task, 0.0) for task in self.tasks])
        if w.min() < 0 or not math.isclose(w.sum(), 1.0, abs_tol=1e-6):
            raise ValueError(f"Weights must be >= 0 and sum to 1, got {dict(weights)}.")
        # A zero is written as half of what counts as zero, or as less, so that none of the others,
        # which stay in proportion, comes to count as zero too.
        off = w <= 0
        if off.any():
            spare = 1 - self.zero_below / w[~off].min()
            zero = min(self.zero_below / 2, 0.99 * spare / off.sum())
            w = np.where(off, zero, w * (1 - off.sum() * zero))
        if w.min() <= 0:
            raise ValueError("A weight of zero needs `zero_below` above zero.")
        group_of = self._group_of()
        firsts = np.unique(group_of, return_index=True)[1]
        if not np.allclose(w, w[firsts][group_of], rtol=1e-6):
            raise ValueError(f"Weights must be equal in a group, got {dict(weights)}.")
        logs = (np.log(w) - np.log(self.prior))[firsts]
        z = self.basis().T @ (logs - logs.mean())
        if np.abs(z).max() > self.half_width:
            raise ValueError(
                f"`half_width` must be at least {np.abs(z).max():.2f} for the weights "
                f"{dict(weights)}, got {self.half_width}."
            )
        found = dict(zip(self.names, z.tolist(), strict=True))
        again = self.decode(found)
        if any(abs(again[t] - weights.get(t, 0.0)) > 1e-6 for t in self.tasks):
            raise ValueError(
                f"Weights below `zero_below` = {self.zero_below} can't be told from zero, "
                f"got {dict(weights)}."
            )
        return found
