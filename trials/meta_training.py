"""The task-learning stage: a learner meta-trained on weighted episodes of many tasks.

L(theta) = sum_i lambda_i * mean_e L_ie(theta) / L_ie^0 over the episodes e of each task i, L_ie^0
the loss of the best constant predictor of the episode.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from fewshot.episodes import Episode
from fewshot.functional import Hyperparameters, Params
from fewshot.kinds import Scores
from fewshot.learners.base import ClassLoss, Learner, OwnLoss
from fewshot.randomness import fold
from fewshot.tasks.base import Pool
from fewshot.tasks.pool import TaskPool
from trials.contract import Stage
from trials.objective import TaskScores

# Keeps the scores of hundreds of episodes from being held in memory at once.
_EPISODES_AT_ONCE = 256

# The pool that scores a stage, the number of episodes a task, and the key of their draw.
HeldOut = tuple[Pool, int, Tensor]


class Batch(NamedTuple):
    """One step's episodes, task after task, as many of each."""

    episodes: Episode
    classes: Any  # (b, way) for a `ClassLoss` learner, see there; for others nothing


@dataclass(frozen=True, eq=False)
class Part:
    """Tasks that can be drawn and learned as one, and what learns them.

    train: the training tasks among them, if there are any.
    held_out: what scores each stage. The episodes are the same for every trial of a stage.
    """

    learner: Learner
    train: Pool | None
    held_out: Mapping[Stage, HeldOut]
    _drawn: dict[Stage, Episode] = field(default_factory=dict)

    @cached_property
    def _null_losses(self) -> Tensor:
        assert self.train is not None, "only what is trained has losses"
        if isinstance(self.learner, ClassLoss):
            assert isinstance(self.train, TaskPool), "numbers have no classes"
            return torch.tensor(self.train.class_counts, device=self.train.inputs.device).log()
        return self.train.null_losses

    def batch(self, keys: Tensor, episodes: int) -> Batch:
        """As many episodes of each training task for each of l keys: (l, t * e, ...)."""
        assert self.train is not None, "only what is trained is drawn"
        drawn = self.train.draw(keys, episodes)
        flat = Episode(*(x.flatten(1, 2) for x in drawn))
        if not isinstance(self.learner, ClassLoss):
            return Batch(flat, ())
        assert isinstance(self.train, TaskPool), "numbers have no classes"
        return Batch(flat, self.train.drawn_classes(keys, episodes).flatten(1, 2))

    def losses(self, params: Params, batch: Batch, hyper: Hyperparameters) -> Tensor:
        """Mean of L_ie / L_ie^0 for each training task, (t,), on a batch of t * e episodes."""
        assert self.train is not None, "only what is trained has losses"
        episodes, classes = batch
        n_tasks, n_episodes = len(self.train.names), len(episodes.query_y)
        if isinstance(self.learner, ClassLoss):
            tasks = torch.arange(n_tasks, device=classes.device)
            tasks = tasks.repeat_interleave(n_episodes // n_tasks)
            losses = self.learner.class_losses(params, episodes, tasks, classes, hyper)  # (t * e,)
        elif isinstance(self.learner, OwnLoss):
            losses = self.learner.meta_losses(params, episodes, hyper)
        else:
            outputs = self.learner.meta_logits(params, episodes, hyper)  # (t * e, q, way)
            losses = self.train.kind.losses(outputs, episodes.query_y).mean(1)
        null_losses = self._null_losses.repeat_interleave(n_episodes // n_tasks)
        if not isinstance(self.learner, ClassLoss):
            null_losses = self.train.kind.null_losses(episodes.query_y, null_losses)
        return (losses / null_losses).view(n_tasks, -1).mean(1)

    def episodes(self, stage: Stage) -> Episode:
        """What scores a stage, (t * n, ...); drawn once."""
        if stage not in self._drawn:
            pool, n_episodes, key = self.held_out[stage]
            drawn = pool.draw(key, n_episodes)
            self._drawn[stage] = Episode(*(part.flatten(0, 1) for part in drawn))
        return self._drawn[stage]

    def score(self, params: Params, hyper: Hyperparameters, stage: Stage) -> list[TaskScores]:
        """How l models do on the tasks that score a stage, if any of them is of this part."""
        if stage not in self.held_out:
            return []
        pool, n_episodes, key = self.held_out[stage]
        episodes = self.episodes(stage)
        parts = zip(*(part.split(_EPISODES_AT_ONCE) for part in episodes), strict=True)
        task = torch.arange(len(pool.names), device=key.device).repeat_interleave(n_episodes)
        null_losses = pool.null_losses[task].split(_EPISODES_AT_ONCE)
        chunks = [
            self._scores(params, Episode(*part), hyper, pool, null_loss)
            for part, null_loss in zip(parts, null_losses, strict=True)
        ]
        # (l, t, episodes) each
        scores = {
            name: torch.cat([chunk[name] for chunk in chunks], 1).unflatten(1, (-1, n_episodes))
            for name in chunks[0]
        }
        return [
            TaskScores(
                name,
                scores["skill"][:, t],
                {metric: scores[metric][:, t].mean(1) for metric in pool.kind.reported},
            )
            for t, name in enumerate(pool.names)
        ]

    def _scores(
        self,
        params: Params,
        episodes: Episode,
        hyper: Hyperparameters,
        pool: Pool,
        null_losses: Tensor,
    ) -> Scores:
        """How l models do on each of b episodes, (l, b)."""
        outputs = vmap(self.learner.logits, in_dims=(0, None, 0))(params, episodes, hyper)
        return pool.kind.scores(outputs, episodes.query_y, null_losses)


class MetaTraining:
    """The `Objective` of learners of one kind of tasks each, which have all parameters in common.

    episodes: of each training task in a step.
    """

    learning_rate = "lr/outer"

    def __init__(self, parts: Sequence[Part], episodes: int) -> None:
        self.hyperparameters = tuple(
            dict.fromkeys(name for part in parts for name in part.learner.hyperparameters)
        )
        self.parts, self._episodes = parts, episodes
        self._trained = [part for part in parts if part.train is not None]
        self.tasks = tuple(
            name for part in self._trained if part.train is not None for name in part.train.names
        )

    def init(self, seed: int) -> Params:
        """Those parameters that parts have in common are the same in all of them."""
        params: Params = {}
        for part in self.parts:
            params |= part.learner.init(torch.Generator().manual_seed(seed))
        return params

    def batch(self, seeds: Tensor, steps: Tensor) -> tuple[Batch, ...]:
        """Of each part that is trained."""
        keys = fold(seeds, steps)
        return tuple(part.batch(keys, self._episodes) for part in self._trained)

    def loss(
        self,
        params: Params,
        batch: tuple[Batch, ...],
        hyper: Hyperparameters,
        weights: Tensor,
    ) -> Tensor:
        losses = [
            part.losses(params, drawn, hyper)
            for part, drawn in zip(self._trained, batch, strict=True)
        ]
        return (weights * torch.cat(losses)).sum()

    def score(self, params: Params, hyper: Hyperparameters, stage: Stage) -> list[TaskScores]:
        return [scores for part in self.parts for scores in part.score(params, hyper, stage)]
