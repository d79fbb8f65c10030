"""A pool of classification tasks, from which episodes of all of them are drawn in one pass."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fewshot.episodes import Episode
from fewshot.faults import Fault, InputError
from fewshot.randomness import distinct, fold


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

    inputs: (n, *features), shared by all tasks and resident on the device.
    members: (t, g, c, m) int64 rows of `inputs`, padded; present: the same shape, bool.
    """

    names: tuple[str, ...]
    inputs: Tensor
    members: Tensor
    present: Tensor
    way: int
    shot: int
    query: int

    def draw(self, keys: Tensor, episodes: int) -> Episode:
        """`episodes` episodes of each task for each key: keys (...) -> (..., t, episodes, ...)."""
        n_tasks = len(self.names)
        device = keys.device
        keys = fold(keys[..., None], torch.arange(n_tasks, device=device))
        keys = fold(keys[..., None], torch.arange(episodes, device=device))
        return self._gather(keys, torch.arange(n_tasks, device=device)[:, None])

    def _gather(self, keys: Tensor, task: Tensor) -> Episode:
        enough = self.present.sum(-1) >= self.shot + self.query  # (t, g, c)
        usable = enough.sum(-1) >= self.way  # (t, g)
        group = distinct(fold(keys, 0), usable[task], 1)[..., 0]
        classes = distinct(fold(keys, 1), enough[task, group], self.way)  # (..., way)
        task, group = task[..., None], group[..., None]
        per_class = fold(fold(keys, 2)[..., None], torch.arange(self.way, device=keys.device))
        chosen = distinct(per_class, self.present[task, group, classes], self.shot + self.query)
        rows = self.members[task, group, classes].gather(-1, chosen)  # (..., way, shot + query)
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
            present=self.present.to(device),
        )


def pool(tasks: Sequence[Task], inputs: Tensor, *, way: int, shot: int, query: int) -> TaskPool:
    """Index tables of `tasks`, all of whose rows are rows of `inputs`.

    Raises InputError if a task has no group with `way` classes of `shot + query` examples.
    """
    tables = [_table(task) for task in tasks]
    faults = [
        Fault(
            f"tasks.{task.name}",
            f"needs {way} classes with at least shot + query = {shot + query} examples"
            + (" in one group." if len(table) > 1 else "."),
            _largest(table, shot + query),
            "Lower `way`, `shot` or `query`, or give the task more examples.",
        )
        for task, table in zip(tasks, tables, strict=True)
        if _largest_way(table, shot + query) < way
    ]
    if faults:
        raise InputError(faults)
    n_groups = max(len(table) for table in tables)
    n_classes = max(len(group) for table in tables for group in table)
    n_members = max(len(rows) for table in tables for group in table for rows in group)
    members = np.zeros((len(tasks), n_groups, n_classes, n_members), dtype=np.int64)
    present = np.zeros_like(members, dtype=bool)
    for t, table in enumerate(tables):
        for g, group in enumerate(table):
            for c, rows in enumerate(group):
                members[t, g, c, : len(rows)] = rows
                present[t, g, c, : len(rows)] = True
    return TaskPool(
        tuple(task.name for task in tasks),
        inputs,
        torch.from_numpy(members),
        torch.from_numpy(present),
        way,
        shot,
        query,
    )


def _table(task: Task) -> list[list[np.ndarray]]:
    """Rows by group and class."""
    return [
        [
            task.rows[(task.groups == group) & (task.labels == label)]
            for label in np.unique(task.labels[task.groups == group])
        ]
        for group in np.unique(task.groups)
    ]


def _largest_way(table: list[list[np.ndarray]], n: int) -> int:
    return max((sum(len(rows) >= n for rows in group) for group in table), default=0)


def _largest(table: list[list[np.ndarray]], n: int) -> str:
    sizes = [len(rows) for group in table for rows in group]
    smallest, most = (min(sizes), max(sizes)) if sizes else (0, 0)
    return f"{_largest_way(table, n)} such classes; classes have {smallest} to {most} examples"
