"""A pool of regression tasks whose examples are rows of a dataset."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fewshot.episodes import Episode, gather_rows
from fewshot.errors.inputs import ErrorDetail, InputError
from fewshot.kinds import REGRESSION, Kind
from fewshot.randomness import distinct, fold
from fewshot.tasks.base import episode_keys


@dataclass(frozen=True, eq=False)
class RegressionTask:
    """One source of examples, each with a number to predict.

    rows: (n,) int64, row numbers in the dataset's inputs. values: (n,) float64, finite.
    """

    name: str
    rows: np.ndarray
    values: np.ndarray

    def shuffled(self, seed: int) -> "RegressionTask":
        """The same examples with their numbers permuted; there is nothing to learn."""
        return replace(self, values=np.random.default_rng(seed).permutation(self.values))

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
    """A `Pool` of t tasks with at most m examples each. Numbers keep their original units.

    An episode has `shot` support examples and `query` other examples to predict.

    inputs: (n, *features), shared by all tasks, on the device.
    members, values: (t, m), rows of `inputs` and their numbers, padded with zeros at the end.
    n_members: (t,) int64, the numbers of examples without padding.
    null_losses: (t,), the variances.
    """

    names: tuple[str, ...]
    inputs: Tensor
    members: Tensor
    values: Tensor
    n_members: Tensor
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

    def draw(self, keys: Tensor, episodes: int) -> Episode:
        """`episodes` episodes of each task for each key: keys (...) -> (..., t, episodes, ...)."""
        task = torch.arange(len(self.names), device=keys.device)[:, None]
        return self.draw_of(episode_keys(keys, len(self.names), episodes), task)

    def draw_of(self, keys: Tensor, task: Tensor) -> Episode:
        """One episode of the task (...) for each key (...)."""
        # Other pools may be drawn with the same keys, so the counter differs from theirs.
        chosen = distinct(fold(keys, 3), self.n_members[task], self.shot + self.query)
        x = gather_rows(self.inputs, self.members[task[..., None], chosen])
        y = self.values[task[..., None], chosen].unsqueeze(-1)
        n, at = self.shot, y.dim() - 2  # x has the same number of dimensions before its features
        return Episode(
            x.narrow(at, 0, n), y[..., :n, :], x.narrow(at, n, self.query), y[..., n:, :]
        )

    def to(self, device: torch.device) -> "RegressionPool":
        return replace(
            self,
            inputs=self.inputs.to(device),
            members=self.members.to(device),
            values=self.values.to(device),
            n_members=self.n_members.to(device),
            null_losses=self.null_losses.to(device),
        )


def regression_pool(
    tasks: Sequence[RegressionTask], inputs: Tensor, *, shot: int, query: int
) -> RegressionPool:
    """The pool of `tasks`, whose row numbers refer to `inputs`.

    Raises InputError if a task has fewer than `shot + query` examples, or if its numbers have no
    finite variance above 0.
    """
    needed = shot + query
    null_losses = torch.tensor([task.values.var() for task in tasks]).float()
    variances = null_losses.tolist()
    details = [
        ErrorDetail(
            f"tasks.{task.name}",
            f"needs at least shot + query = {needed} examples.",
            len(task.rows),
            "Lower `shot` or `query`, or give the task more examples.",
        )
        for task in tasks
        if len(task.rows) < needed
    ] + [
        ErrorDetail(
            f"tasks.{task.name}", "must have numbers whose variance is finite and above 0.", v
        )
        for task, v in zip(tasks, variances, strict=True)
        if not 0 < v < math.inf
    ]
    if details:
        raise InputError(details)
    shape = (len(tasks), max(len(task.rows) for task in tasks))
    members, values = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.float32)
    for t, task in enumerate(tasks):
        members[t, : len(task.rows)] = task.rows
        values[t, : len(task.rows)] = task.values
    return RegressionPool(
        names=tuple(task.name for task in tasks),
        inputs=inputs,
        members=torch.from_numpy(members),
        values=torch.from_numpy(values),
        n_members=torch.tensor([len(task.rows) for task in tasks]),
        null_losses=null_losses,
        shot=shot,
        query=query,
    )
