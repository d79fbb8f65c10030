"""The task-learning stage: learners are meta-trained on weighted episodes of many tasks.

L(theta) = sum_i lambda_i * mean_e L_ie(theta) / L_ie^0 over the episodes e of each task i. L_ie^0
is the loss of the best constant predictor of the episode. Alternatively, episodes are drawn from
task i with probability lambda_i, and L is the mean of L_ie / L_ie^0, which has the same
expectation. With a teacher, L_ie is (1 - w) * CE + w * S on the queries. S is the soft loss of
fewshot.losses.distillation; for numbers it is the squared error to the teacher's predictions.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from fewshot.calibration import fitted_scale
from fewshot.episodes import Episode, gather_rows, hide_query_labels, with_inputs
from fewshot.functional import Hyperparameters, Params
from fewshot.kinds import CLASSIFICATION
from fewshot.learners.base import ClassLoss, CustomLoss, Learner
from fewshot.learners.embedding import EmbeddingLearner, of_embedded
from fewshot.losses.distillation import Distillation
from fewshot.losses.normalise import check_null_losses
from fewshot.randomness import fold, proportional
from fewshot.tasks.base import Pool, episode_keys
from fewshot.tasks.functions import FunctionPool
from fewshot.tasks.pool import TaskPool
from fewshot.tasks.regression import RegressionPool
from trials.contract import Stage
from trials.lanes.objective import TaskScores, soft_hyperparameters
from trials.lanes.step.mapping import over_lanes
from trials.programs.teachers import Teacher

# Limits of one scoring pass, so that the outputs of all episodes are never in memory together.
_EPISODES_AT_ONCE, EXAMPLES_AT_ONCE = 256, 512
_NUMBERS_AT_ONCE = 1 << 28  # in the examples of the episodes, in one lane
# Episodes per task that calibrate its logits: some thousand queries are enough.
_CALIBRATING = 64

# Outputs of l models for the queries of b episodes, (l, b, q, n_out), and their labels, (b, q, ..).
Answered = tuple[Tensor, Tensor]

# The pool that scores a stage, the number of episodes per task, and the random key of their draw.
HeldOut = tuple[Pool, int, Tensor]

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
    sampled: whether task weights are sampling probabilities of episodes instead of loss weights.
    """

    learner: Learner
    train: Pool | None
    held_out: Mapping[Stage, HeldOut]
    sampled: bool = False
    teacher_signal: TeacherSignal | None = None
    _drawn: dict[Stage, Episode] = field(default_factory=dict)
    _rows: dict[Stage, tuple[Tensor, Episode]] = field(default_factory=dict)

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
        """t * `episodes` episodes for each of l keys, as rows and without teacher logits.

        weights: (l, t).
        """
        pool, _ = self._source
        t, device = len(pool.names), keys.device
        own = episode_keys(keys, t, episodes).flatten(1)
        if self.sampled:
            which = proportional(fold(keys, _WHICH_TASK), weights, t * episodes)
            task = which.clamp(max=t - 1)  # the weights of this group can all be zero
            drawn = pool.draw_of(own, task)
        else:
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

    def loss(self, params: Params, batch: Batch, hyper: Hyperparameters, weights: Tensor) -> Tensor:
        """The terms of L of these tasks, or an unbiased estimate of their sum, for one lane."""
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
        if isinstance(self.learner, ClassLoss):
            (classes,) = batch.classes
            return self.learner.class_losses(params, episodes, batch.task, classes, hyper)
        if isinstance(self.learner, CustomLoss):
            return self.learner.meta_losses(params, episodes, hyper)
        outputs = self.learner.meta_logits(
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

    def episodes(self, stage: Stage) -> Episode:
        """The scoring episodes of a stage, (t * n, ...); drawn once."""
        if stage not in self._drawn:
            pool, n_episodes, key = self.held_out[stage]
            drawn = pool.draw(key, n_episodes)
            self._drawn[stage] = Episode(*(part.flatten(0, 1) for part in drawn))
        return self._drawn[stage]

    def score(self, params: Params, hyper: Hyperparameters, stage: Stage) -> list[TaskScores]:
        """The scores of l models on this group's tasks of a stage; empty if there are none."""
        if stage not in self.held_out:
            return []
        pool, n_episodes, key = self.held_out[stage]
        task = torch.arange(len(pool.names), device=key.device).repeat_interleave(n_episodes)
        null_losses = pool.null_losses[task]
        calibrated = stage == "final" and pool.kind is CLASSIFICATION
        chunks: list[dict[str, Tensor]] = []
        kept: list[Answered] = []  # for calibration: the first episodes of each task
        at = 0
        for outputs, answers in self._answered(params, hyper, stage):
            place = torch.arange(at, at + len(answers), device=key.device)
            chunks.append(pool.kind.scores(outputs, answers, null_losses[place]))
            if calibrated:
                first = place % n_episodes < _CALIBRATING
                kept.append((outputs[:, first], answers[first]))
            at += len(answers)
        # (l, t, episodes) each
        scores = {
            name: torch.cat([chunk[name] for chunk in chunks], 1).unflatten(1, (-1, n_episodes))
            for name in chunks[0]
        }
        scales = {"logit_scale": _scales(kept, len(pool.names))} if calibrated else {}
        return [
            TaskScores(
                name,
                scores["skill"][:, t],
                {metric: scores[metric][:, t].mean(1) for metric in pool.kind.reported}
                | {metric: value[:, t] for metric, value in scales.items()},
            )
            for t, name in enumerate(pool.names)
        ]

    def _answered(self, params: Params, hyper: Hyperparameters, stage: Stage) -> Iterator[Answered]:
        """The outputs of l models for the scoring episodes of a stage, in chunks of episodes."""
        pool = self.held_out[stage][0]
        if isinstance(self.learner, EmbeddingLearner) and isinstance(
            pool, TaskPool | RegressionPool
        ):
            yield from self._compared(self.learner, params, hyper, *self._examples(pool, stage))
            return
        answer = over_lanes(self.learner.logits, shared=1)
        for part in _parts_of(self.episodes(stage), math.prod(pool.features)):
            yield answer(params, hide_query_labels(part), hyper), part.query_y

    @staticmethod
    def _compared(
        learner: EmbeddingLearner,
        params: Params,
        hyper: Hyperparameters,
        inputs: Tensor,
        rows: Episode,
    ) -> Iterator[Answered]:
        """`_answered` for learners that embed: an example is embedded once for all its episodes."""
        embed = over_lanes(learner.embedding.apply, shared=1)
        embedded = [embed(params, part) for part in inputs.split(EXAMPLES_AT_ONCE)]
        lanes = len(next(iter(hyper.values())))
        found = torch.cat(embedded, 1).expand(lanes, -1, -1)  # (l, u, d)
        mapped = Episode._make((0, None, 0, None))
        compare = vmap(of_embedded(learner).logits, in_dims=(0, mapped, 0))
        for part in _parts_of(rows, found.shape[-1]):
            support, query = (
                found.index_select(1, own.flatten()).unflatten(1, own.shape)
                for own in (part.support_x, part.query_x)
            )
            embedded_part = hide_query_labels(part)._replace(support_x=support, query_x=query)
            yield compare(params, embedded_part, hyper), part.query_y

    def _examples(self, pool: TaskPool | RegressionPool, stage: Stage) -> tuple[Tensor, Episode]:
        """The distinct examples of `episodes`, and these episodes as row numbers; computed once."""
        if stage not in self._rows:
            _, n_episodes, key = self.held_out[stage]
            drawn = pool.by_row().draw(key, n_episodes)
            labelled = Episode(*(part.flatten(0, 1) for part in drawn))
            both = [labelled.support_x, labelled.query_x]
            used, places = torch.cat(both, 1).unique(return_inverse=True)
            support, query = places.split([part.shape[1] for part in both], 1)
            own = labelled._replace(support_x=support, query_x=query)
            self._rows[stage] = gather_rows(pool.inputs, used), own
        return self._rows[stage]


def _scales(answered: Sequence[Answered], n_tasks: int) -> Tensor:
    """Scales (l, t) that calibrate the logits of t tasks with the same number of episodes each."""
    logits = torch.cat([outputs for outputs, _ in answered], 1).unflatten(1, (n_tasks, -1))
    labels = torch.cat([answers for _, answers in answered]).unflatten(0, (n_tasks, -1))
    z, y = logits.flatten(2, 3), labels.flatten(1, 2)  # (l, t, e * q, way), (t, e * q)
    return fitted_scale(z, y.expand(z.shape[:-1]))


def _parts_of(episodes: Episode, width: int) -> Iterator[Episode]:
    """The episodes in chunks that fit in memory; each example has `width` numbers."""
    examples = episodes.support_x.shape[1] + episodes.query_x.shape[1]
    n = at_once(len(episodes.support_y), examples * width)
    return map(Episode._make, zip(*(part.split(n) for part in episodes), strict=True))


def at_once(n: int, numbers: int) -> int:
    """The number of episodes, up to n, of one scoring pass; each has `numbers` numbers."""
    return max(1, min(n, _EPISODES_AT_ONCE, _NUMBERS_AT_ONCE // max(1, numbers)))


class MetaTraining:
    """The `Objective` of meta-training: one learner per kind of task, with shared parameters.

    episodes: number per training task and step.
    """

    learning_rate = "lr/outer"

    def __init__(self, parts: Sequence[TaskGroup], episodes: int) -> None:
        self.hyperparameters = tuple(
            dict.fromkeys(name for part in parts for name in part.hyperparameters)
        )
        self.parts, self._episodes = parts, episodes
        self._trained = [part for part in parts if part.train is not None]
        self.tasks = tuple(
            name for part in self._trained if part.train is not None for name in part.train.names
        )

    def init(self, seed: int) -> Params:
        """The parameters of all groups; those with the same name are shared."""
        params: Params = {}
        for part in self.parts:
            params |= part.learner.init(torch.Generator().manual_seed(seed))
        return params

    def _shared(self, weights: Tensor) -> tuple[Tensor, ...]:
        """The weights (..., t) of the tasks of each group that has training tasks."""
        sizes = [len(part.train.names) for part in self._trained if part.train is not None]
        parts: tuple[Tensor, ...] = weights.split(sizes, -1)
        return parts

    def draw(self, seeds: Tensor, steps: Tensor, weights: Tensor) -> tuple[Batch, ...]:
        """One batch for each group that has training tasks."""
        keys, own = fold(seeds, steps), self._shared(weights)
        return tuple(
            part.draw(keys, self._episodes, theirs)
            for part, theirs in zip(self._trained, own, strict=True)
        )

    def batch(self, drawn: tuple[Batch, ...]) -> tuple[Batch, ...]:
        return tuple(part.batch(own) for part, own in zip(self._trained, drawn, strict=True))

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
        return [scores for part in self.parts for scores in part.score(params, hyper, stage)]
