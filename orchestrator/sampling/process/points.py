"""Trials as points: the shares of the task weights, and other parameters as positions in [0, 1]."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution

from orchestrator.sampling.process.dimensions import Categorical, dimension
from orchestrator.space.choices import Conditions, active
from orchestrator.space.simplex import Simplex

Array = np.ndarray
NO_AFFINITY: Mapping[str, float] = MappingProxyType({})
NO_CONDITIONS: Conditions = MappingProxyType({})
# The position of a parameter that a trial has not, because its recipe does not read it.
_UNREAD = 0.5


@dataclass(frozen=True, eq=False)
class Points:
    """n points.

    shares: (n, g), the shares of the g groups of tasks, >= 0 with sum 1; g is 0 if the weights are
    not searched. A task without a group is a group of its own. scalars: (n, r), in [0, 1], the
    other parameters.
    """

    shares: Array
    scalars: Array

    def __len__(self) -> int:
        return len(self.scalars)

    def take(self, rows: Array | Sequence[int]) -> "Points":
        """The points of some rows."""
        return Points(self.shares[rows], self.scalars[rows])

    def last(self, n: int) -> "Points":
        """The last n points, or all if there are fewer."""
        return Points(self.shares[-n:], self.scalars[-n:])

    def __add__(self, others: "Points") -> "Points":
        """These points, then the others."""
        return Points(
            np.concatenate([self.shares, others.shares]),
            np.concatenate([self.scalars, others.scalars]),
        )


class Coordinates:
    """Maps the parameters of trials to points, and points to what the model sees.

    distributions: of all parameters; those of the simplex's coordinates are not read.
    affinity: for every training task a number >= 0, how much it is expected to help, see
    `trials.programs.similarity.affinity`; only their ratios matter. May be empty.
    conditions: of parameters that only some trials have.
    """

    def __init__(
        self,
        distributions: Mapping[str, BaseDistribution],
        simplex: Simplex | None = None,
        affinity: Mapping[str, float] = NO_AFFINITY,
        conditions: Conditions = NO_CONDITIONS,
    ) -> None:
        coordinates = () if simplex is None else simplex.names
        self._dimensions = {
            name: dimension(of) for name, of in distributions.items() if name not in coordinates
        }
        self.simplex, self._conditions = simplex, conditions
        self.affinity = self._of_groups(affinity) if simplex and affinity else None

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
        return len(self._dimensions)

    @property
    def nominal(self) -> Array:
        """Which scalars are choices without an order, (r,) bool."""
        return np.array([d.nominal for d in self._dimensions.values()], bool)

    def points(self, params: Sequence[Mapping[str, Any]]) -> Points:
        """The points of n sets of parameters."""
        dimensions = self._dimensions.items()
        scalars = [
            [d.position(p[name]) if name in p else _UNREAD for name, d in dimensions]
            for p in params
        ]
        shares = np.zeros((len(params), 0))
        if self.simplex is not None:
            weights = [list(self.simplex.decode(p).values()) for p in params]
            shares = self.simplex.group_shares(
                np.array(weights).reshape(len(params), len(self.simplex.tasks))
            )
        return Points(shares, np.array(scalars, float).reshape(len(params), len(dimensions)))

    def params(self, points: Points) -> list[dict[str, Any]]:
        """The parameters of n points."""
        found = [
            active(
                {
                    name: d.value(float(x))
                    for (name, d), x in zip(self._dimensions.items(), own, strict=True)
                },
                self._conditions,
            )
            for own in points.scalars
        ]
        if self.simplex is None:
            return found
        return [
            scalars | self.simplex.encode_nearest(shares)
            for scalars, shares in zip(found, points.shares, strict=True)
        ]

    def features(self, points: Points) -> Array:
        """What the model sees of n points: shares, scalars, and the affinity if it is known.

        Square roots of shares, because a share of .001 and a share of .01 train almost the same,
        and because the first part of a task's share has the most effect.
        """
        parts = [np.sqrt(points.shares)]
        for name, positions in zip(self._dimensions, points.scalars.T, strict=True):
            read = self._read(name, points)
            found = self._dimensions[name].features(np.where(read, positions, _UNREAD))
            parts.append(found * read[:, None] if self._dimensions[name].nominal else found)
        if self.affinity is not None:
            spread = max(1e-9, float(self.affinity.std()))
            parts.append(points.shares @ ((self.affinity - self.affinity.mean()) / spread)[:, None])
        return np.concatenate(parts, 1)

    def _read(self, name: str, points: Points) -> Array:
        """Which points read a parameter, (n,) bool."""
        read = np.ones(len(points), bool)
        for condition in self._conditions.get(name, ()):
            of = self._dimensions[condition.of]
            assert isinstance(of, Categorical), "only choices have conditions on their values"
            positions = points.scalars[:, list(self._dimensions).index(condition.of)]
            read &= of.among(condition.values, positions) & self._read(condition.of, points)
        return read

    @property
    def widths(self) -> tuple[int, int, int]:
        """The numbers of features for shares, for scalars, and for the affinity."""
        scalars = sum(d.width for d in self._dimensions.values())
        return len(self.prior), scalars, int(self.affinity is not None)
