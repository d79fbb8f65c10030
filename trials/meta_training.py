"""The task-learning stage: a learner meta-trained on weighted episodes of many tasks.

L(theta) = sum_i lambda_i * L_i(theta) / L_i^0, L_i^0 the loss of the best constant predictor.
"""

from collections.abc import Mapping
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


class MetaTraining:
    """The `Objective` of a learner on a pool of training tasks.

    held_out: what scores each stage. The episodes are the same for every trial of a stage.
    """

    learning_rate = "lr/outer"

    def __init__(
        self,
        learner: Learner,
        train: Pool,
        episodes: int,
        held_out: Mapping[Stage, HeldOut],
    ) -> None:
        self.hyperparameters = learner.hyperparameters
        self.tasks = train.names
        self._learner, self._train, self._episodes = learner, train, episodes
        self._held_out = held_out
        self._null_losses = train.null_losses
        if isinstance(learner, ClassLoss):
            assert isinstance(train, TaskPool), "functions have no classes"
            self._null_losses = torch.tensor(train.class_counts, device=train.inputs.device).log()
        self._drawn: dict[Stage, Episode] = {}

    def init(self, seed: int) -> Params:
        return self._learner.init(torch.Generator().manual_seed(seed))

    def batch(self, seeds: Tensor, steps: Tensor) -> Batch:
        keys = fold(seeds, steps)
        drawn = self._train.draw(keys, self._episodes)
        episodes = Episode(*(part.flatten(1, 2) for part in drawn))  # (l, t * e, ...)
        if not isinstance(self._learner, ClassLoss):
            return Batch(episodes, ())
        assert isinstance(self._train, TaskPool), "functions have no classes"
        return Batch(episodes, self._train.drawn_classes(keys, self._episodes).flatten(1, 2))

    def loss(self, params: Params, batch: Batch, hyper: Hyperparameters, weights: Tensor) -> Tensor:
        episodes, classes = batch
        if isinstance(self._learner, ClassLoss):
            tasks = torch.arange(len(self.tasks), device=weights.device)
            tasks = tasks.repeat_interleave(self._episodes)
            losses = self._learner.class_losses(params, episodes, tasks, classes, hyper)  # (t * e,)
        elif isinstance(self._learner, OwnLoss):
            losses = self._learner.meta_losses(params, episodes, hyper)
        else:
            outputs = self._learner.meta_logits(params, episodes, hyper)  # (t * e, q, way)
            losses = self._train.kind.losses(outputs, episodes.query_y)
        per_task = losses.view(len(self.tasks), -1).mean(1) / self._null_losses
        return (weights * per_task).sum()

    def score(self, params: Params, hyper: Hyperparameters, stage: Stage) -> list[TaskScores]:
        pool, n_episodes, key = self._held_out[stage]
        if stage not in self._drawn:
            drawn = pool.draw(key, n_episodes)
            self._drawn[stage] = Episode(*(part.flatten(0, 1) for part in drawn))
        episodes = self._drawn[stage]
        parts = zip(*(part.split(_EPISODES_AT_ONCE) for part in episodes), strict=True)
        task = torch.arange(len(pool.names), device=key.device).repeat_interleave(n_episodes)
        null_losses = pool.null_losses[task].split(_EPISODES_AT_ONCE)
        chunks = [
            self._scores(params, Episode(*part), hyper, null_loss)
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
        self, params: Params, episodes: Episode, hyper: Hyperparameters, null_losses: Tensor
    ) -> Scores:
        """How l models do on each of b episodes, (l, b)."""
        outputs = vmap(self._learner.logits, in_dims=(0, None, 0))(params, episodes, hyper)
        return self._train.kind.scores(outputs, episodes.query_y, null_losses)
