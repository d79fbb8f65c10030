"""Trials as points: the shares of the task weights, and scalars as positions in their ranges."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.space.search_space import SearchSpace, Values
from orchestrator.space.simplex import Simplex

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Points:
    """n points.

    shares: (n, g), the shares of the g groups of tasks, >= 0 with sum 1; g is 0 if the weights are
    not searched. A task without a group is a group of its own. scalars: (n, r), in [0, 1].
    """

    shares: Array
    scalars: Array

    def __len__(self) -> int:
        return len(self.scalars)

    def take(self, rows: Array | Sequence[int]) -> "Points":
        """The points of some rows."""
        return Points(self.shares[rows], self.scalars[rows])

    def __add__(self, others: "Points") -> "Points":
        """These points, then the others."""
        return Points(
            np.concatenate([self.shares, others.shares]),
            np.concatenate([self.scalars, others.scalars]),
        )


class Coordinates:
    """Maps the parameters of trials to points, and points to what the model sees.

    affinity: how much each training task is expected to help, see `trials.programs.affinity`; only
    the differences matter. May be empty.
    """

    def __init__(self, space: SearchSpace, affinity: Mapping[str, float]) -> None:
        self._space = space
        self.simplex = space.weights if isinstance(space.weights, Simplex) else None
        self.affinity = self._of_groups(affinity) if self.simplex and affinity else None

    def _of_groups(self, affinity: Mapping[str, float]) -> Array:
        assert self.simplex is not None, "only the affinity of searched tasks is read"
        tasks = len(self.simplex.tasks)
        one = np.eye(tasks)
        sizes = self.simplex.group_shares(np.ones((1, tasks)))[0]
        of_tasks = np.array([affinity[task] for task in self.simplex.tasks])
        return np.asarray(of_tasks @ self.simplex.group_shares(one) / sizes)

    @property
    def prior(self) -> Array:
        """The prior share of each group, (g,)."""
        if self.simplex is None:
            return np.zeros(0)
        return np.asarray(self.simplex.group_shares(np.array([self.simplex.prior]))[0])

    @property
    def n_scalars(self) -> int:
        return len(self._space.ranges)

    def points(self, params: Sequence[Mapping[str, float]]) -> Points:
        """The points of n sets of parameters."""
        ranges = self._space.ranges.items()
        scalars = [[r.share(p[name]) for name, r in ranges] for p in params]
        shares = np.zeros((len(params), 0))
        if self.simplex is not None:
            weights = [list(self.simplex.decode(p).values()) for p in params]
            shares = self.simplex.group_shares(
                np.array(weights).reshape(len(params), len(self.simplex.tasks))
            )
        return Points(shares, np.array(scalars).reshape(len(params), len(ranges)))

    def params(self, points: Points) -> list[Values]:
        """The parameters of n points."""
        ranges = self._space.ranges.items()
        found = [
            {name: r.at(float(x)) for (name, r), x in zip(ranges, own, strict=True)}
            for own in points.scalars
        ]
        if self.simplex is None:
            return found
        return [
            scalars | self.simplex.encode_nearest(shares)
            for scalars, shares in zip(found, points.shares, strict=True)
        ]

    def features(self, points: Points) -> Array:
        """What the model sees, (n, g + r), or (n, g + r + 1) with the expected affinity.

        Square roots of shares, because a share of .001 and a share of .01 train almost the same,
        and because the first part of a task's share has the most effect.
        """
        parts = [np.sqrt(points.shares), points.scalars]
        if self.affinity is not None:
            spread = max(1e-9, float(self.affinity.std()))
            parts.append(points.shares @ ((self.affinity - self.affinity.mean()) / spread)[:, None])
        return np.concatenate(parts, 1)
