"""The adaptation stage alone: a model is trained on one new task, optionally with a teacher.

Without a teacher, the loss L is the cross-entropy on the support examples. With a teacher,

L = (1 - w) * CE on the support + w * S on the support and the unlabelled examples.

S is the soft loss of fewshot.losses.distillation: tau^2 * KL(teacher || student), or a variant.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from fewshot.episodes import gather_rows
from fewshot.functional import Hyperparameters, Params, cross_entropies
from fewshot.losses.distillation import HINTON, Distillation
from fewshot.metrics import accuracy, macro_f1, skill
from fewshot.models.base import AppliesToLanes, Model, StartsAtMeans
from fewshot.models.pretrained.adapters.lora import with_rank
from fewshot.randomness import fold, integers
from trials.contract import Stage
from trials.lanes.objective import NOTHING, TaskScores, soft_hyperparameters
from trials.lanes.step.mapping import same_for_lanes

_QUERIES_AT_ONCE = 256


class Drawn(NamedTuple):
    """The examples of one step, as indices into the task's `support` and `transfer` rows."""

    support: Tensor  # (l, b)
    transfer: Tensor  # (l, b), or (l, 0) if there is no teacher


class Batch(NamedTuple):
    """The examples of one step: b labelled ones and, with a teacher, b with teacher logits."""

    x: Tensor  # (b, *features) or (2b, *features), or logits; the labelled examples come first
    support_y: Tensor  # (b,)
    transfer_logits: Tensor  # (b, classes)


@dataclass(frozen=True, eq=False)
class NewTask:
    """A task to adapt to. Student and teacher never see the labels of `transfer` and `query` rows.

    support: (s,) rows of the inputs, with labels (s,) in 0..n_classes-1.
    transfer: (u,) rows that the teacher labels, including the support; u is 0 without a teacher.
    teacher: (u, n_classes), the teacher's logits of these rows.
    query: for each stage, rows (q,) and labels (q,), used only for scoring.
    """

    name: str
    n_classes: int
    support: Tensor
    labels: Tensor
    transfer: Tensor
    teacher: Tensor
    query: Mapping[Stage, tuple[Tensor, Tensor]]

    def to(self, device: torch.device) -> "NewTask":
        return replace(
            self,
            support=self.support.to(device),
            labels=self.labels.to(device),
            transfer=self.transfer.to(device),
            teacher=self.teacher.to(device),
            query={s: (rows.to(device), y.to(device)) for s, (rows, y) in self.query.items()},
        )


def task_without_teacher(
    name: str,
    n_classes: int,
    support: Tensor,
    labels: Tensor,
    query: Mapping[Stage, tuple[Tensor, Tensor]],
) -> NewTask:
    """The task without a teacher."""
    no_teacher = torch.zeros(0, dtype=torch.int64), torch.zeros(0, n_classes)
    return NewTask(name, n_classes, support, labels, *no_teacher, query)


class Adaptation:
    """The `Objective` of one student on one new task, without meta-training and task weights."""

    captured = True
    learning_rate = "lr/adapt"
    hyperparameters: tuple[str, ...] = ("lr/adapt", *soft_hyperparameters(regresses=False))
    alone: tuple[str, ...] = ("lr/adapt",)  # the hyperparameters that are read without a teacher
    tasks: tuple[str, ...] = ()

    def __init__(
        self,
        model: Model,
        inputs: Tensor,
        task: NewTask,
        batch: int,
        distillation: Distillation = HINTON,
    ) -> None:
        self.model, self._inputs, self._task, self._batch = model, inputs, task, batch
        self._distillation = distillation
        self._taught = len(task.transfer) > 0
        if not self._taught:
            self.hyperparameters = self.alone

    def init(self, seed: int, hyperparameters: Mapping[str, float] = NOTHING) -> Params:
        params = self.model.init(torch.Generator().manual_seed(seed))
        return with_rank(params | self._head, hyperparameters)

    @cached_property
    def _head(self) -> Params:
        """A last layer at the class means of the support, the same for all trials."""
        if not isinstance(self.model, StartsAtMeans):
            return {}
        support = gather_rows(self._inputs, self._task.support)
        params = self.model.init(torch.Generator().manual_seed(0))
        on_device = {name: value.to(support.device) for name, value in params.items()}
        head = self.model.head_at_means(on_device, support, self._task.labels)
        return {name: value.cpu() for name, value in head.items()}

    def draw(self, seeds: Tensor, steps: Tensor, weights: Tensor) -> Drawn:
        del weights
        key = fold(seeds, steps)
        n_transfer = self._batch if self._taught else 0
        return Drawn(
            integers(fold(key, 0), self._batch, len(self._task.support)),
            integers(fold(key, 1), n_transfer, len(self._task.transfer)),
        )

    def batch(self, drawn: Drawn) -> Batch:
        task, (support, transfer) = self._task, drawn
        rows = torch.cat([task.support[support], task.transfer[transfer]], 1)
        x = gather_rows(self._inputs, rows)
        return Batch(x, task.labels[support], gather_rows(task.teacher, transfer))

    def embed(self, params: Params, batch: Batch) -> Batch:
        """The batch with logits in place of examples, if the model computes those of all lanes."""
        if not isinstance(self.model, AppliesToLanes):
            return batch
        return batch._replace(x=self.model.apply_to_lanes(params, batch.x))

    def loss(self, params: Params, batch: Batch, hyper: Hyperparameters, weights: Tensor) -> Tensor:
        del weights
        n, embedded = len(batch.support_y), isinstance(self.model, AppliesToLanes)
        logits = batch.x if embedded else self.model.apply(params, batch.x)
        hard = cross_entropies(logits[:n], batch.support_y).mean()
        if not self._taught:
            return hard
        taught = batch.transfer_logits
        # The true classes of unlabelled examples are unknown. Decoupled distillation therefore
        # uses the class that the teacher predicts as its target class.
        target = taught.argmax(-1)
        temperature = hyper["distill/temperature"]
        soft = self._distillation.losses(logits[n:], taught, temperature, target)
        weight = hyper["distill/soft_weight"]
        return (1 - weight) * hard + weight * soft.mean()

    def logits(self, params: Params, rows: Tensor) -> Tensor:
        """Logits (l, n, classes) of l stacked models for n rows."""
        mapped = same_for_lanes(self.model)
        parts = rows.split(_QUERIES_AT_ONCE)
        return torch.cat([mapped(params, gather_rows(self._inputs, part)) for part in parts], 1)

    def some_queries(self) -> Tensor:
        """The inputs of as many queries as one forward pass of `logits` takes."""
        rows, _ = max(self._task.query.values(), key=lambda queries: len(queries[0]))
        return gather_rows(self._inputs, rows[:_QUERIES_AT_ONCE])

    def score(self, params: Params, hyper: Hyperparameters, stage: Stage) -> list[TaskScores]:
        del hyper
        rows, labels = self._task.query[stage]
        logits = self.logits(params, rows)
        right = (logits.argmax(-1) == labels).double()
        right = right.where(~logits.isnan().any(-1), torch.nan)
        return [
            TaskScores(
                self._task.name,
                skill(right, self._task.n_classes),
                {"accuracy": accuracy(logits, labels), "f1": macro_f1(logits, labels)},
            )
        ]
