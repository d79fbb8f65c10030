"""A pool of classification tasks, whose episodes are all drawn in one pass.

Way, shot and query are either fixed or drawn for each episode. An imbalanced episode draws the shot
of each class separately, and keeps its queries balanced. This is the random imbalance of Ochal,
Patacchiola, Storkey, Vazquez and Wang, "Few-shot learning with class imbalance", IEEE Transactions
on Artificial Intelligence, 2023.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fewshot.episodes import Count, Episode, bounds, gather_rows
from fewshot.errors.inputs import ErrorDetail, InputError
from fewshot.kinds import CLASSIFICATION, Kind
from fewshot.losses.normalise import null_loss_of_episodes
from fewshot.randomness import distinct, fold
from fewshot.tasks.base import episode_keys

Imbalance = Literal["random"]


@dataclass(frozen=True, eq=False)
class Task:
    """One source of labelled examples.

    rows: (n,) int64, row numbers in the dataset's inputs.
    labels: (n,) int64 codes of the classes.
    groups: (n,) int64 codes; the classes of one episode come from one group.
    """

    name: str
    rows: np.ndarray
    labels: np.ndarray
    groups: np.ndarray

    def shuffled(self, seed: int) -> "Task":
        """The same examples with labels permuted in each group; there is nothing to learn."""
        rng = np.random.default_rng(seed)
        labels = self.labels.copy()
        for group in np.unique(self.groups):
            members = np.flatnonzero(self.groups == group)
            labels[members] = labels[rng.permutation(members)]
        return replace(self, labels=labels)

    def noisy(self, share: float, seed: int) -> "Task":
        """The same examples with a share in [0, 1] of the labels replaced by random ones.

        The replacements are drawn uniformly from the classes of the group, including the true one.
        """
        rng = np.random.default_rng(seed)
        labels = self.labels.copy()
        for group in np.unique(self.groups):
            members = np.flatnonzero(self.groups == group)
            wrong = rng.permutation(members)[: round(share * len(members))]
            labels[wrong] = rng.choice(np.unique(self.labels[members]), len(wrong))
        return replace(self, labels=labels)


@dataclass(frozen=True, eq=False)
class TaskPool:
    """A `Pool` of t tasks with at most g groups, c classes per group and m examples per class.

    It has only classes with at least (highest shot) + (highest query) examples, and only groups
    with at least the lowest `way` of such classes. No episode has more classes than its group.

    inputs: (n, *features), shared by all tasks, on the device.
    members: (t, g, c, m) int64 rows of `inputs`, padded with zeros at the end.
    n_groups, n_classes, n_members: (t,), (t, g), (t, g, c) int64, the numbers without padding.
    query_offset: added to the rows of queries; above 0 if `inputs` has another version of each
        example for queries, which shows less, see `Dataset.as_queries`.
    fixed_classes: whether the classes of an episode keep the order of the group's classes, so that
        a class has the same number in every episode; else their order is random.
    """

    names: tuple[str, ...]
    inputs: Tensor
    members: Tensor
    n_groups: Tensor
    n_classes: Tensor
    n_members: Tensor
    way: Count
    shot: Count
    query: Count
    imbalance: Imbalance | None = None
    query_offset: int = 0
    fixed_classes: bool = False

    def by_row(self) -> "TaskPool":
        """A pool with the same episodes, which hold row numbers of `inputs` instead of examples."""
        return replace(self, inputs=torch.arange(len(self.inputs), device=self.inputs.device))

    @property
    def kind(self) -> Kind:
        return CLASSIFICATION

    @property
    def null_losses(self) -> Tensor:
        low, high = bounds(self.way)
        losses = [
            [null_loss_of_episodes(low, min(high, n)) for n in sizes if n]
            for sizes in self.n_classes.tolist()
        ]
        means = [sum(groups) / len(groups) for groups in losses]
        return torch.tensor(means, device=self.inputs.device)

    @property
    def features(self) -> tuple[int, ...]:
        return tuple(self.inputs.shape[1:])

    @property
    def sizes(self) -> dict[str, int]:
        sizes = self.n_members.flatten(1).sum(1).tolist()
        return dict(zip(self.names, sizes, strict=True))

    @property
    def rows(self) -> tuple[Tensor, ...]:
        """For each task the rows of `inputs` (n,) that its episodes have."""
        real = torch.arange(self.members.shape[-1], device=self.members.device)
        masks = real < self.n_members[..., None]
        return tuple(own[mask] for own, mask in zip(self.members, masks, strict=True))

    @property
    def class_counts(self) -> tuple[int, ...]:
        """Number of classes of each task."""
        return tuple(self.n_classes.sum(1).tolist())

    def draw(self, keys: Tensor, episodes: int) -> Episode:
        """`episodes` episodes of each task for each key: keys (...) -> (..., t, episodes, ...)."""
        task = torch.arange(len(self.names), device=keys.device)
        return self.draw_of(episode_keys(keys, len(task), episodes), task[:, None])

    def classes_of(self, keys: Tensor, task: Tensor) -> Tensor:
        """The classes (..., way) of the episodes `draw_of(keys, task)`.

        Classes are numbered from 0 to the task's `class_counts` - 1, group after group. The numbers
        of classes that an episode does not have are arbitrary.
        """
        group, classes = self._choose(keys, task)
        before = self.n_classes.cumsum(1) - self.n_classes
        return before[task, group].unsqueeze(-1) + classes

    def _choose(self, keys: Tensor, task: Tensor) -> tuple[Tensor, Tensor]:
        """The group (...) of each episode, and its classes (..., way) within the group."""
        group = distinct(fold(keys, 0), self.n_groups[task], 1)[..., 0]
        way = bounds(self.way)[1]
        classes = distinct(fold(keys, 1), self.n_classes[task, group], way).clamp(min=0)
        return group, classes.sort(-1).values if self.fixed_classes else classes

    def draw_of(self, keys: Tensor, task: Tensor) -> Episode:
        """One episode of the task (...) for each key (...)."""
        way, shot, query = (bounds(n)[1] for n in (self.way, self.shot, self.query))
        group, classes = self._choose(keys, task)
        n_classes = self.n_classes[task, group]
        task, group = task[..., None], group[..., None]
        per_class = fold(fold(keys, 2)[..., None], torch.arange(way, device=keys.device))
        count = self.n_members[task, group, classes]
        chosen = distinct(per_class, count, shot + query)  # (..., way, shot + query)
        rows = self.members[task[..., None], group[..., None], classes[..., None], chosen]
        n_shots = fold(per_class, 2) if self.imbalance else fold(keys, 4)[..., None]
        labels = _first(way, _number(fold(keys, 3), self.way, n_classes))
        return Episode(
            gather_rows(self.inputs, rows[..., :shot].flatten(-2)),
            _rows_of(labels, shot, _number(n_shots, self.shot)),
            gather_rows(self.inputs, rows[..., shot:].flatten(-2) + self.query_offset),
            _rows_of(labels, query, _number(fold(keys, 5)[..., None], self.query)),
        )

    def to(self, device: torch.device) -> "TaskPool":
        return replace(
            self,
            inputs=self.inputs.to(device),
            members=self.members.to(device),
            n_groups=self.n_groups.to(device),
            n_classes=self.n_classes.to(device),
            n_members=self.n_members.to(device),
        )


def _number(key: Tensor, count: Count, most: Tensor | None = None) -> Tensor:
    """A random value of `count` for each key, at most `most`, which has the shape of `key`."""
    low, high = bounds(count)
    if low == high:
        return torch.full_like(key, low)
    span = torch.full_like(key, high + 1 - low)
    if most is not None:
        span = span.minimum(most + 1 - low)
    return low + distinct(key, span, 1)[..., 0]


def _first(n: int, real: Tensor) -> Tensor:
    """The numbers 0..n-1, (..., n), with -1 in place of all but the first `real` (...) numbers."""
    numbers = torch.arange(n, device=real.device)
    return torch.where(numbers < real[..., None], numbers, -1)


def _rows_of(labels: Tensor, n: int, real: Tensor) -> Tensor:
    """Labels (..., way * n) of n rows per class; all but the first `real` rows are padding.

    real: (..., way or 1).
    """
    return torch.where(_first(n, real) < 0, -1, labels[..., None]).flatten(-2)


Table = list[list[np.ndarray]]  # rows of a task by group and class


def pool(
    tasks: Sequence[Task],
    inputs: Tensor,
    *,
    way: Count,
    shot: Count,
    query: Count,
    imbalance: Imbalance | None = None,
    query_offset: int = 0,
    fixed_classes: bool = False,
) -> TaskPool:
    """The pool of `tasks`, whose row numbers refer to `inputs`; see `TaskPool.query_offset`.

    Raises InputError if a task has no group with `way` classes of `shot + query` examples. Of
    ranges, the lowest way and the highest shot and query count.
    """
    fewest, needed = bounds(way)[0], bounds(shot)[1] + bounds(query)[1]
    tables = [_table(task) for task in tasks]
    usable = [_usable(table, fewest, needed) for table in tables]
    details = [
        ErrorDetail(
            f"tasks.{task.name}",
            f"needs {fewest} classes with at least shot + query = {needed} examples"
            + (" in one group." if len(table) > 1 else "."),
            _described(table, needed),
            "Lower `way`, `shot` or `query`, or give the task more examples.",
        )
        for task, table, kept in zip(tasks, tables, usable, strict=True)
        if not kept
    ]
    if details:
        raise InputError(details)
    n_groups = np.array([len(table) for table in usable])
    widest = max(len(group) for table in usable for group in table)
    longest = max(len(rows) for table in usable for group in table for rows in group)
    shape = (len(tasks), int(n_groups.max()), widest)
    n_classes = np.zeros(shape[:2], dtype=np.int64)
    n_members = np.zeros(shape, dtype=np.int64)
    members = np.zeros((*shape, longest), dtype=np.int64)
    for t, table in enumerate(usable):
        for g, group in enumerate(table):
            n_classes[t, g] = len(group)
            for c, rows in enumerate(group):
                n_members[t, g, c] = len(rows)
                members[t, g, c, : len(rows)] = rows
    return TaskPool(
        names=tuple(task.name for task in tasks),
        inputs=inputs,
        members=torch.from_numpy(members),
        n_groups=torch.from_numpy(n_groups),
        n_classes=torch.from_numpy(n_classes),
        n_members=torch.from_numpy(n_members),
        way=way,
        shot=shot,
        query=query,
        imbalance=imbalance,
        query_offset=query_offset,
        fixed_classes=fixed_classes,
    )


def _table(task: Task) -> Table:
    """The rows of a task by group and class."""
    return [
        [
            task.rows[(task.groups == group) & (task.labels == label)]
            for label in np.unique(task.labels[task.groups == group])
        ]
        for group in np.unique(task.groups)
    ]


def _usable(table: Table, way: int, n: int) -> Table:
    """The groups that have `way` classes with at least n examples; smaller classes are removed."""
    groups = [[rows for rows in group if len(rows) >= n] for group in table]
    return [group for group in groups if len(group) >= way]


def _described(table: Table, n: int) -> str:
    sizes = [len(rows) for group in table for rows in group]
    most = max((sum(len(rows) >= n for rows in group) for group in table), default=0)
    smallest, largest = (min(sizes), max(sizes)) if sizes else (0, 0)
    return f"{most} such classes; classes have {smallest} to {largest} examples"
