"""A pool of regression tasks whose examples are rows of a dataset.

A task may have groups, such as the schools of its pupils or the users who gave its ratings. All
examples of an episode are then from one group. Each example of the task is equally likely to be in
an episode, so the score is the share of the variance of all numbers of the task.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewshot.episodes import Episode, gather_rows
from fewshot.errors.inputs import ErrorDetail, InputError
from fewshot.kinds import REGRESSION, Kind
from fewshot.randomness import distinct, fold
from fewshot.tasks.base import episode_keys

_GROUP = 6  # the counter of the random choice of a group


@dataclass(frozen=True, eq=False)
class RegressionTask:
    """One source of examples, each with a number to predict.

    rows: (n,) int64, row numbers in the dataset's inputs. values: (n,) float64, finite.
    groups: (n,) int64 codes of the groups; None if all examples are one group.
    order: (n,) float64, finite, such as a time: the support of an episode then precedes its
        queries. None if they are drawn in any order.
    """

    name: str
    rows: np.ndarray
    values: np.ndarray
    groups: np.ndarray | None = None
    order: np.ndarray | None = None

    def shuffled(self, seed: int) -> "RegressionTask":
        """The same examples with numbers permuted in each group; there is nothing to learn."""
        rng = np.random.default_rng(seed)
        if self.groups is None:
            return replace(self, values=rng.permutation(self.values))
        values = self.values.copy()
        for members in _members_of(self.groups):
            values[members] = values[rng.permutation(members)]
        return replace(self, values=values)

    def noisy(self, share: float, seed: int) -> "RegressionTask":
        """The same examples with a share in [0, 1] of the numbers replaced by random ones.

        The replacements are drawn from all numbers of the task.
        """
        rng = np.random.default_rng(seed)
        wrong = rng.permutation(len(self.values))[: round(share * len(self.values))]
        values = self.values.copy()
        values[wrong] = rng.choice(self.values, len(wrong))
        return replace(self, values=values)


@dataclass(frozen=True, eq=False)
class RegressionPool:
    """A `Pool` of t tasks with at most g groups each. Numbers keep their original units.

    An episode has `shot` support examples and `query` other examples to predict, of one group. It
    has only groups with at least so many examples. In tasks with an order, the members of a group
    are sorted by it, and no query precedes a support example.

    inputs: (n, *features), shared by all tasks, on the device.
    members, values: (m,), rows of `inputs` and their numbers, group after group, task after task.
    first, n_members: (t,) int64, the place of each task in `members`, and its number of examples.
    start, size: (m,) int64, for each member the place where its group starts, and its size.
    ordered: (t,) bool, whether the task has an order.
    null_losses: (t,), the variances.
    """

    names: tuple[str, ...]
    inputs: Tensor
    members: Tensor
    values: Tensor
    first: Tensor
    n_members: Tensor
    start: Tensor
    size: Tensor
    ordered: Tensor
    null_losses: Tensor
    shot: int
    query: int

    def by_row(self) -> "RegressionPool":
        """A pool with the same episodes, which hold row numbers of `inputs` instead of examples."""
        return replace(self, inputs=torch.arange(len(self.inputs), device=self.inputs.device))

    @property
    def kind(self) -> Kind:
        return REGRESSION

    @property
    def features(self) -> tuple[int, ...]:
        return tuple(self.inputs.shape[1:])

    @property
    def sizes(self) -> dict[str, int]:
        return dict(zip(self.names, self.n_members.tolist(), strict=True))

    @property
    def rows(self) -> tuple[Tensor, ...]:
        """For each task the rows of `inputs` (n,) that its episodes have."""
        parts: tuple[Tensor, ...] = self.members.split(self.n_members.tolist())
        return parts

    @property
    def groups(self) -> tuple[Tensor, ...]:
        """For each task a code (n,) of the group of each of its `rows`."""
        parts: tuple[Tensor, ...] = self.start.split(self.n_members.tolist())
        return parts

    def draw(self, keys: Tensor, episodes: int) -> Episode:
        """`episodes` episodes of each task for each key: keys (...) -> (..., t, episodes, ...)."""
        task = torch.arange(len(self.names), device=keys.device)[:, None]
        return self.draw_of(episode_keys(keys, len(self.names), episodes), task)

    def draw_of(self, keys: Tensor, task: Tensor) -> Episode:
        """One episode of the task (...) for each key (...)."""
        member = self._any_member(keys, task)
        chosen = distinct(fold(keys, 3), self.size[member], self.shot + self.query)
        chosen = torch.where(self.ordered[task][..., None], chosen.sort(-1).values, chosen)
        place = self.start[member][..., None] + chosen
        x = gather_rows(self.inputs, self.members[place])
        y = self.values[place].unsqueeze(-1)
        n, at = self.shot, y.dim() - 2  # x has the same number of dimensions before its features
        return Episode(
            x.narrow(at, 0, n), y[..., :n, :], x.narrow(at, n, self.query), y[..., n:, :]
        )

    def groups_of(self, keys: Tensor, task: Tensor) -> Tensor:
        """The codes (...) of the groups of the episodes `draw_of(keys, task)`."""
        return self.start[self._any_member(keys, task)]

    def _any_member(self, keys: Tensor, task: Tensor) -> Tensor:
        """The place in `members` (...) of an example whose group an episode has."""
        # Other pools may be drawn with the same keys, so the counters differ from theirs.
        any_of = distinct(fold(keys, _GROUP), self.n_members[task], 1)[..., 0]
        return self.first[task] + any_of

    def to(self, device: torch.device) -> "RegressionPool":
        moved: dict[str, Any] = {
            field.name: value.to(device)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **moved)


def _members_of(groups: np.ndarray) -> list[np.ndarray]:
    """The places (n,) of the members of each group, in their order; groups ascending."""
    order = np.argsort(groups, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(groups[order])) + 1) if len(order) else []


def _table(task: RegressionTask, needed: int) -> list[np.ndarray]:
    """The places of the examples of each group that is large enough, in their order if any."""
    groups = np.zeros(len(task.rows), dtype=np.int64) if task.groups is None else task.groups
    found = [members for members in _members_of(groups) if len(members) >= needed]
    if task.order is None:
        return found
    return [members[np.argsort(task.order[members], kind="stable")] for members in found]


def regression_pool(
    tasks: Sequence[RegressionTask], inputs: Tensor, *, shot: int, query: int
) -> RegressionPool:
    """The pool of `tasks`, whose row numbers refer to `inputs`.

    Raises InputError if a task has no group with `shot + query` examples, or if its numbers have no
    finite variance above 0.
    """
    needed = shot + query
    tables = [_table(task, needed) for task in tasks]
    places = [np.concatenate(table) if table else np.empty(0, dtype=np.int64) for table in tables]
    values = [task.values[own] for task, own in zip(tasks, places, strict=True)]
    null_losses = torch.tensor([own.var() if len(own) else math.nan for own in values]).float()
    details = [
        ErrorDetail(
            f"tasks.{task.name}",
            f"needs at least shot + query = {needed} examples"
            + ("." if task.groups is None else " in one of its groups."),
            len(task.rows) if task.groups is None else _largest(task.groups),
            "Lower `shot` or `query`, or give the task more examples.",
        )
        for task, table in zip(tasks, tables, strict=True)
        if not table
    ] + [
        ErrorDetail(
            f"tasks.{task.name}", "must have numbers whose variance is finite and above 0.", v
        )
        for task, table, v in zip(tasks, tables, null_losses.tolist(), strict=True)
        if table and not 0 < v < math.inf
    ]
    if details:
        raise InputError(details)
    n_members = torch.tensor(list(map(len, places)))
    sizes = torch.tensor([len(members) for table in tables for members in table])
    return RegressionPool(
        names=tuple(task.name for task in tasks),
        inputs=inputs,
        members=torch.from_numpy(
            np.concatenate([task.rows[own] for task, own in zip(tasks, places, strict=True)])
        ),
        values=torch.from_numpy(np.concatenate(values).astype(np.float32)),
        first=n_members.cumsum(0) - n_members,
        n_members=n_members,
        start=(sizes.cumsum(0) - sizes).repeat_interleave(sizes),
        size=sizes.repeat_interleave(sizes),
        ordered=torch.tensor([task.order is not None for task in tasks]),
        null_losses=null_losses,
        shot=shot,
        query=query,
    )


def _largest(groups: np.ndarray) -> str:
    """The number of groups and the size of the largest one, in words."""
    sizes = list(map(len, _members_of(groups)))
    return f"{len(sizes)} groups, of which the largest has {max(sizes)} examples"
