"""The task-learning stage: learners are meta-trained on weighted episodes of many tasks.

L(theta) = sum_i lambda_i * mean_e L_ie(theta) / L_ie^0 over the episodes e of each task i. L_ie^0
is the loss of the best constant predictor of the episode. Alternatively, episodes are drawn from
task i with probability lambda_i, and L is the mean of L_ie / L_ie^0, which has the same
expectation. With a teacher, L_ie is (1 - w) * CE + w * S on the queries. S is the soft loss of
fewshot.losses.distillation; for numbers it is the squared error to the teacher's predictions.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fewshot.functional import Hyperparameters, Params
from fewshot.models.pretrained.adapters.lora import with_rank
from fewshot.randomness import fold
from trials.contract import Stage
from trials.lanes.objective import NOTHING, TaskScores
from trials.programs.meta_training.task_group import Batch, TaskGroup


class MetaTraining:
    """The `Objective` of meta-training: one learner per kind of task, with shared parameters.

    episodes: number per training task and step.
    sampled: number per step if tasks are sampled; 0 for `episodes` times the number of tasks.
    """

    captured = True
    learning_rate = "lr/outer"

    def __init__(self, parts: Sequence[TaskGroup], episodes: int, sampled: int = 0) -> None:
        self.hyperparameters = tuple(
            dict.fromkeys(name for part in parts for name in part.hyperparameters)
        )
        self.parts, self._episodes, self._sampled = parts, episodes, sampled
        self._trained = [part for part in parts if part.train is not None]
        self.tasks = tuple(
            name for part in self._trained if part.train is not None for name in part.train.names
        )

    def init(self, seed: int, hyperparameters: Mapping[str, float] = NOTHING) -> Params:
        """The parameters of all groups; those with the same name are shared."""
        params: Params = {}
        for part in self.parts:
            params |= part.learner.init(torch.Generator().manual_seed(seed))
        return with_rank(params, hyperparameters)

    def _shared(self, weights: Tensor) -> tuple[Tensor, ...]:
        """The weights (..., t) of the tasks of each group that has training tasks."""
        sizes = [len(part.train.names) for part in self._trained if part.train is not None]
        parts: tuple[Tensor, ...] = weights.split(sizes, -1)
        return parts

    def draw(self, seeds: Tensor, steps: Tensor, weights: Tensor) -> tuple[Batch, ...]:
        """One batch for each group that has training tasks."""
        keys, own = fold(seeds, steps), self._shared(weights)
        return tuple(
            part.draw(keys, self._number(theirs.shape[-1], part), theirs)
            for part, theirs in zip(self._trained, own, strict=True)
        )

    def _number(self, n_tasks: int, part: TaskGroup) -> int:
        """The number of episodes of a group's tasks in one step: in total if they are sampled."""
        if not part.sampled:
            return self._episodes
        in_total = self._sampled or self._episodes * len(self.tasks)
        return max(1, round(in_total * n_tasks / len(self.tasks)))

    def batch(self, drawn: tuple[Batch, ...]) -> tuple[Batch, ...]:
        return tuple(part.batch(own) for part, own in zip(self._trained, drawn, strict=True))

    def embed(self, params: Params, batch: tuple[Batch, ...]) -> tuple[Batch, ...]:
        return tuple(
            part.embed(params, own) for part, own in zip(self._trained, batch, strict=True)
        )

    def loss(
        self,
        params: Params,
        batch: tuple[Batch, ...],
        hyper: Hyperparameters,
        weights: Tensor,
    ) -> Tensor:
        losses = [
            part.loss(params, drawn, hyper, own)
            for part, drawn, own in zip(self._trained, batch, self._shared(weights), strict=True)
        ]
        return torch.stack(losses).sum()

    def score(self, params: Params, hyper: Hyperparameters, stage: Stage) -> list[TaskScores]:
        return [
            scores for part in self.parts for scores in part.scoring.score(params, hyper, stage)
        ]
