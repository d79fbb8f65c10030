"""A pool of classification tasks, from which episodes of all of them are drawn in one pass."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fewshot.episodes import Episode
from fewshot.faults import Fault, InputError
from fewshot.kinds import CLASSIFICATION, Kind
from fewshot.losses.normalise import null_loss_of_episodes
from fewshot.randomness import distinct, fold
from fewshot.tasks.base import episode_keys


@dataclass(frozen=True, eq=False)
class Task:
    """One source of labelled examples.

    rows: (n,) int64, places in the dataset's inputs.
    labels: (n,) int64 codes of the classes.
    groups: (n,) int64 codes; the classes of one episode come from one group.
    """

    name: str
    rows: np.ndarray
    labels: np.ndarray
    groups: np.ndarray

    def shuffled(self, seed: int) -> "Task":
        """The same examples with their labels permuted within each group: nothing to learn."""
        rng = np.random.default_rng(seed)
        labels = self.labels.copy()
        for group in np.unique(self.groups):
            members = np.flatnonzero(self.groups == group)
            labels[members] = labels[rng.permutation(members)]
        return replace(self, labels=labels)


@dataclass(frozen=True, eq=False)
class TaskPool:
    """Index tables of t tasks with at most g groups, c classes a group and m examples a class.

    Only what episodes can be drawn from is in them: classes of at least shot + query examples, in
    groups of at least `way` such classes.

    inputs: (n, *features), shared by all tasks and resident on the device.
    members: (t, g, c, m) int64 rows of `inputs`, padded with zeros behind.
    n_groups, n_classes, n_members: (t,), (t, g), (t, g, c) int64, how many there really are.
    """

    names: tuple[str, ...]
    inputs: Tensor
    members: Tensor
    n_groups: Tensor
    n_classes: Tensor
    n_members: Tensor
    way: int
    shot: int
    query: int

    def by_row(self) -> "TaskPool":
        """The same episodes, with the places of the examples in `inputs` in place of them."""
        return replace(self, inputs=torch.arange(len(self.inputs), device=self.inputs.device))

    @property
    def kind(self) -> Kind:
        return CLASSIFICATION

    @property
    def null_losses(self) -> Tensor:
        null_loss = null_loss_of_episodes(self.way)
        return torch.full((len(self.names),), null_loss, device=self.inputs.device)

    @property
    def features(self) -> tuple[int, ...]:
        return tuple(self.inputs.shape[1:])

    @property
    def sizes(self) -> dict[str, int]:
        sizes = self.n_members.flatten(1).sum(1).tolist()
        return dict(zip(self.names, sizes, strict=True))

    @property
    def class_counts(self) -> tuple[int, ...]:
        """Number of classes of each task."""
        return tuple(self.n_classes.sum(1).tolist())

    def draw(self, keys: Tensor, episodes: int) -> Episode:
        """`episodes` episodes of each task for each key: keys (...) -> (..., t, episodes, ...)."""
        task = torch.arange(len(self.names), device=keys.device)
        return self.draw_of(episode_keys(keys, len(task), episodes), task[:, None])

    def classes_of(self, keys: Tensor, task: Tensor) -> Tensor:
        """What the classes of `draw_of(keys, task)` are, (..., way).

        Numbers from 0 to the task's `class_counts` - 1, group after group.
        """
        group, classes = self._choose(keys, task)
        before = self.n_classes.cumsum(1) - self.n_classes
        return before[task, group].unsqueeze(-1) + classes

    def _choose(self, keys: Tensor, task: Tensor) -> tuple[Tensor, Tensor]:
        """The group (...) of each episode, and its classes (..., way) within the group."""
        group = distinct(fold(keys, 0), self.n_groups[task], 1)[..., 0]
        return group, distinct(fold(keys, 1), self.n_classes[task, group], self.way)

    def draw_of(self, keys: Tensor, task: Tensor) -> Episode:
        """An episode of the task (...) for each key (...)."""
        group, classes = self._choose(keys, task)
        task, group = task[..., None], group[..., None]
        per_class = fold(fold(keys, 2)[..., None], torch.arange(self.way, device=keys.device))
        count = self.n_members[task, group, classes]
        chosen = distinct(per_class, count, self.shot + self.query)  # (..., way, shot + query)
        rows = self.members[task[..., None], group[..., None], classes[..., None], chosen]
        labels = torch.arange(self.way, device=keys.device)
        support, query = rows[..., : self.shot].flatten(-2), rows[..., self.shot :].flatten(-2)
        return Episode(
            self.inputs[support],
            labels.repeat_interleave(self.shot).expand(support.shape),
            self.inputs[query],
            labels.repeat_interleave(self.query).expand(query.shape),
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


Table = list[list[np.ndarray]]  # rows of a task by group and class


def pool(tasks: Sequence[Task], inputs: Tensor, *, way: int, shot: int, query: int) -> TaskPool:
    """Index tables of `tasks`, all of whose rows are rows of `inputs`.

    Raises InputError if a task has no group with `way` classes of `shot + query` examples.
    """
    needed = shot + query
    tables = [_table(task) for task in tasks]
    usable = [_usable(table, way, needed) for table in tables]
    faults = [
        Fault(
            f"tasks.{task.name}",
            f"needs {way} classes with at least shot + query = {needed} examples"
            + (" in one group." if len(table) > 1 else "."),
            _described(table, needed),
            "Lower `way`, `shot` or `query`, or give the task more examples.",
        )
        for task, table, kept in zip(tasks, tables, usable, strict=True)
        if not kept
    ]
    if faults:
        raise InputError(faults)
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
    )


def _table(task: Task) -> Table:
    """Rows by group and class."""
    return [
        [
            task.rows[(task.groups == group) & (task.labels == label)]
            for label in np.unique(task.labels[task.groups == group])
        ]
        for group in np.unique(task.groups)
    ]


def _usable(table: Table, way: int, n: int) -> Table:
    """The groups with `way` classes of n examples, without their smaller classes."""
    groups = [[rows for rows in group if len(rows) >= n] for group in table]
    return [group for group in groups if len(group) >= way]


def _described(table: Table, n: int) -> str:
    sizes = [len(rows) for group in table for rows in group]
    most = max((sum(len(rows) >= n for rows in group) for group in table), default=0)
    smallest, largest = (min(sizes), max(sizes)) if sizes else (0, 0)
    return f"{most} such classes; classes have {smallest} to {largest} examples"
