"""The training tasks of one kind, with their weighted loss."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from fewshot.episodes import Episode, hide_query_labels, with_inputs
from fewshot.functional import Hyperparameters, Params
from fewshot.kinds import CLASSIFICATION
from fewshot.learners.base import ClassLoss, CustomLoss, Learner
from fewshot.learners.metric.embedding import EmbeddingLearner, of_embedded
from fewshot.losses.distillation import Distillation
from fewshot.losses.normalise import check_null_losses
from fewshot.models.base import AppliesToLanes, CachesStates, Model
from fewshot.randomness import fold, proportional
from fewshot.tasks.base import Pool, episode_keys
from fewshot.tasks.functions import FunctionPool
from fewshot.tasks.pool import TaskPool
from fewshot.tasks.regression import RegressionPool
from trials.contract import Stage
from trials.lanes.objective import soft_hyperparameters
from trials.programs.meta_training.scoring import HeldOut, HeldOutTasks, with_states
from trials.programs.teachers import Teacher

# Makes the random key of an episode's task different from the key of its examples.
_WHICH_TASK = 0x7A5C


class Batch(NamedTuple):
    """The n episodes of one step, for l lanes.

    Unless episodes are sampled by weight, all tasks have equally many episodes, ordered by task.
    """

    episodes: Episode  # (l, n, ...)
    task: Tensor  # (l, n) int64, the index of each episode's task in its group
    classes: tuple[Tensor, ...]  # (l, n, way), only for a `ClassLoss` learner
    taught: tuple[Tensor, ...]  # (l, n, q, c), the teacher's logits of the queries, if any


@dataclass(frozen=True, eq=False)
class TeacherSignal:
    """A teacher for the training episodes, with the loss of a student that differs from it."""

    teacher: Teacher
    distillation: Distillation


@dataclass(frozen=True, eq=False)
class TaskGroup:
    """Tasks of one kind, drawn from common pools, with their learner.

    train: the pool of the training tasks of this kind, if there are any.
    held_out: for each stage the pool that scores it. Its episodes are the same for every trial.
    frozen: the frozen part of the model, whose results the learner takes instead of inputs.
    references: scores of other models, see `HeldOutTasks`.
    sampled: whether task weights are sampling probabilities of episodes instead of loss weights.
    """

    learner: Learner
    train: Pool | None
    held_out: Mapping[Stage, HeldOut]
    sampled: bool = False
    teacher_signal: TeacherSignal | None = None
    frozen: CachesStates | None = None
    references: Mapping[str, Tensor] = field(default_factory=dict)

    @cached_property
    def scoring(self) -> HeldOutTasks:
        """The held-out tasks of this kind."""
        return HeldOutTasks(self.learner, self.held_out, self.frozen, self.references)

    @property
    def hyperparameters(self) -> tuple[str, ...]:
        """The names of all hyperparameters that are read."""
        if self.teacher_signal is None or self.train is None:
            return self.learner.hyperparameters
        regresses = self.train.kind is not CLASSIFICATION
        return self.learner.hyperparameters + soft_hyperparameters(regresses=regresses)

    @property
    def null_losses(self) -> dict[str, float]:
        """For each training task the loss that its loss is divided by."""
        if self.train is None:
            return {}
        return dict(zip(self.train.names, self._null_losses.tolist(), strict=True))

    @cached_property
    def _null_losses(self) -> Tensor:
        assert self.train is not None, "only training tasks have losses"
        found = self.train.null_losses
        if isinstance(self.learner, ClassLoss):
            assert isinstance(self.train, TaskPool), "numbers have no classes"
            found = torch.tensor(self.train.class_counts, device=self.train.inputs.device).log()
        check_null_losses(self.train.names, found.tolist())
        return found

    @cached_property
    def _source(self) -> tuple[Pool, Tensor | None]:
        """The pool that draws training episodes, and the inputs whose rows it draws, if any."""
        assert self.train is not None, "only training tasks are drawn"
        if isinstance(self.train, FunctionPool):
            return self.train, None
        assert isinstance(self.train, TaskPool | RegressionPool), "there are no other pools of rows"
        return self.train.by_row(), self.train.inputs

    def draw(self, keys: Tensor, episodes: int, weights: Tensor) -> Batch:
        """The episodes of one step for each of l keys, as rows and without teacher logits.

        episodes: their number: in total if tasks are sampled, else of each task.
        weights: (l, t).
        """
        pool, _ = self._source
        t, device = len(pool.names), keys.device
        if self.sampled:
            own = episode_keys(keys, 1, episodes).flatten(1)
            which = proportional(fold(keys, _WHICH_TASK), weights, episodes)
            task = which.clamp(max=t - 1)  # the weights of this group can all be zero
            drawn = pool.draw_of(own, task)
        else:
            own = episode_keys(keys, t, episodes).flatten(1)
            task = torch.arange(t, device=device).repeat_interleave(episodes).expand(own.shape)
            drawn = Episode(*(x.flatten(1, 2) for x in pool.draw(keys, episodes)))
        classes: tuple[Tensor, ...] = ()
        if isinstance(self.learner, ClassLoss):
            assert isinstance(pool, TaskPool), "numbers have no classes"
            classes = (pool.classes_of(own, task),)
        return Batch(drawn, task, classes, taught=())

    def batch(self, drawn: Batch) -> Batch:
        """The batch with the examples of the drawn rows, and with the teacher's logits."""
        _, inputs = self._source
        rows, taught = drawn.episodes, drawn.taught
        if self.teacher_signal is not None:
            logits = self.teacher_signal.teacher.logits(Episode(*(x.flatten(0, 1) for x in rows)))
            taught = (logits.unflatten(0, drawn.task.shape),)
        episodes = rows if inputs is None else with_inputs(rows, inputs)
        return drawn._replace(episodes=episodes, taught=taught)

    @cached_property
    def _common(self) -> AppliesToLanes | None:
        """The model, if it embeds the examples of all lanes together."""
        if isinstance(self.learner, EmbeddingLearner):
            model: Model = self.learner.embedding
            return model if isinstance(model, AppliesToLanes) else None
        return None

    @cached_property
    def _trained(self) -> Learner:
        """The learner of `loss`, whose batch has embedded examples if lanes embed together."""
        if self._common is None:
            return self.learner
        assert isinstance(self.learner, EmbeddingLearner), "see `_common`"
        return of_embedded(self.learner)

    def embed(self, params: Params, batch: Batch) -> Batch:
        """The batch of l lanes with embedded examples, if the model embeds those of all lanes.

        Otherwise the batch has the results of the model's frozen part, if there is one.
        """
        if self._common is None:
            episodes = with_states(self.frozen, batch.episodes, dims=3)
            return batch._replace(episodes=episodes)
        support, query = batch.episodes.support_x, batch.episodes.query_x  # (l, n, s, ...)
        x = torch.cat([support, query], 2)
        outputs = self._common.apply_to_lanes(params, x.flatten(1, 2))
        parts = outputs.view(*x.shape[:3], -1).split([support.shape[2], query.shape[2]], 2)
        episodes = batch.episodes._replace(support_x=parts[0], query_x=parts[1])
        return batch._replace(episodes=episodes)

    def loss(self, params: Params, batch: Batch, hyper: Hyperparameters, weights: Tensor) -> Tensor:
        """The terms of L of these tasks, or an unbiased estimate of their sum, for one lane.

        batch: of this lane, see `embed`.
        """
        assert self.train is not None, "only training tasks have losses"
        null_losses = self._null_losses[batch.task]
        if not isinstance(self.learner, ClassLoss):
            null_losses = self.train.kind.null_losses(batch.episodes.query_y, null_losses)
        normalised = self._losses(params, batch, hyper) / null_losses  # (n,)
        if self.sampled:
            return weights.sum() * normalised.mean()
        return (weights * normalised.view(len(weights), -1).mean(1)).sum()

    def _losses(self, params: Params, batch: Batch, hyper: Hyperparameters) -> Tensor:
        """The loss of each episode of one lane, (n,)."""
        assert self.train is not None, "only training tasks have losses"
        episodes = batch.episodes
        if isinstance(self._trained, ClassLoss):
            (classes,) = batch.classes
            return self._trained.class_losses(params, episodes, batch.task, classes, hyper)
        if isinstance(self._trained, CustomLoss):
            return self._trained.meta_losses(params, episodes, hyper)
        outputs = self._trained.meta_logits(
            params, hide_query_labels(episodes), hyper
        )  # (n, q, way)
        losses = self.train.kind.losses(outputs, episodes.query_y)  # (n, q)
        for taught in batch.taught:
            soft = self._soft(outputs, taught, episodes.query_y, hyper)
            weight = hyper["distill/soft_weight"]
            losses = (1 - weight) * losses + weight * soft
        return losses.mean(1)

    def _soft(
        self, outputs: Tensor, taught: Tensor, answers: Tensor, hyper: Hyperparameters
    ) -> Tensor:
        """The soft loss of each query, (n, q): how far the student differs from its teacher."""
        assert self.train is not None, "only training tasks have losses"
        assert self.teacher_signal is not None, "a soft loss needs a teacher"
        if self.train.kind is not CLASSIFICATION:
            return self.train.kind.losses(outputs, taught)
        temperature = hyper["distill/temperature"]
        return self.teacher_signal.distillation.losses(outputs, taught, temperature, answers)
