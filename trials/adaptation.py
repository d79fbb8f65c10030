"""The adaptation stage alone: a small student fine-tuned on one new task, taught by a teacher.

L = (1 - w) * CE on the support + w * tau^2 * KL(teacher || student) on support and unlabelled.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import vmap
from torch.nn.functional import cross_entropy

from fewshot.functional import Hyperparameters, Params
from fewshot.losses.distillation import soft_loss
from fewshot.metrics import accuracy, macro_f1, skill
from fewshot.models.base import Model
from fewshot.randomness import fold, integers
from trials.contract import Stage
from trials.objective import TaskScores

_QUERIES_AT_ONCE = 1024


class Batch(NamedTuple):
    """One step's examples: labelled ones, and those whose soft labels the teacher gave."""

    support_x: Tensor  # (b, *features)
    support_y: Tensor  # (b,)
    transfer_x: Tensor  # (b, *features)
    transfer_logits: Tensor  # (b, classes)


@dataclass(frozen=True, eq=False)
class NewTask:
    """A task to adapt to. No label of `transfer` or `query` reaches the student or its teacher.

    support: (s,) rows of the inputs, with labels (s,) in 0..n_classes-1.
    transfer: (u,) rows that the teacher labels, the support among them; teacher: (u, n_classes).
    query: for each stage rows (q,) with labels (q,), which only score.
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


class Adaptation:
    """The `Objective` of one student on one new task; nothing is meta-trained, nothing weighted."""

    learning_rate = "lr/adapt"
    hyperparameters: tuple[str, ...] = ("lr/adapt", "distill/temperature", "distill/soft_weight")
    tasks: tuple[str, ...] = ()

    def __init__(self, model: Model, inputs: Tensor, task: NewTask, batch: int) -> None:
        self._model, self._inputs, self._task, self._batch = model, inputs, task, batch

    def init(self, seed: int) -> Params:
        return self._model.init(torch.Generator().manual_seed(seed))

    def batch(self, seeds: Tensor, steps: Tensor) -> Batch:
        key = fold(seeds, steps)
        task = self._task
        support = integers(fold(key, 0), self._batch, len(task.support))
        transfer = integers(fold(key, 1), self._batch, len(task.transfer))
        return Batch(
            self._inputs[task.support[support]],
            task.labels[support],
            self._inputs[task.transfer[transfer]],
            task.teacher[transfer],
        )

    def loss(self, params: Params, batch: Batch, hyper: Hyperparameters, weights: Tensor) -> Tensor:
        del weights
        n = len(batch.support_y)
        logits = self._model.apply(params, torch.cat([batch.support_x, batch.transfer_x]))
        hard = cross_entropy(logits[:n], batch.support_y)
        soft = soft_loss(logits[n:], batch.transfer_logits, hyper["distill/temperature"])
        weight = hyper["distill/soft_weight"]
        return (1 - weight) * hard + weight * soft

    def score(self, params: Params, hyper: Hyperparameters, stage: Stage) -> list[TaskScores]:
        del hyper
        rows, labels = self._task.query[stage]
        mapped = vmap(self._model.apply, in_dims=(0, None))
        logits = torch.cat(
            [mapped(params, self._inputs[part]) for part in rows.split(_QUERIES_AT_ONCE)], 1
        )
        right = (logits.argmax(-1) == labels).double()
        return [
            TaskScores(
                self._task.name,
                skill(right, self._task.n_classes),
                {"accuracy": accuracy(logits, labels), "f1": macro_f1(logits, labels)},
            )
        ]
