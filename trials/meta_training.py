"""The task-learning stage: a learner meta-trained on weighted episodes of many tasks.

L(theta) = sum_i lambda_i * L_i(theta) / L_i^0, L_i^0 the loss of the best constant predictor.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.func import vmap
from torch.nn.functional import cross_entropy

from fewshot.episodes import Episode
from fewshot.functional import Hyperparameters, Params
from fewshot.learners.base import Learner
from fewshot.losses.normalise import null_loss_of_episodes
from fewshot.metrics import accuracy, macro_f1, skill
from fewshot.randomness import fold
from fewshot.tasks.pool import TaskPool
from trials.contract import Stage
from trials.objective import TaskScores

# Keeps the scores of hundreds of episodes from being held in memory at once.
_EPISODES_AT_ONCE = 256

# The pool that scores a stage, the number of episodes a task, and the key of their draw.
HeldOut = tuple[TaskPool, int, Tensor]


class MetaTraining:
    """The `Objective` of a learner on a pool of training tasks.

    held_out: what scores each stage. The episodes are the same for every trial of a stage.
    """

    learning_rate = "lr/outer"

    def __init__(
        self,
        learner: Learner,
        train: TaskPool,
        episodes: int,
        held_out: Mapping[Stage, HeldOut],
    ) -> None:
        self.hyperparameters = learner.hyperparameters
        self.tasks = train.names
        self._learner, self._train, self._episodes = learner, train, episodes
        self._held_out = held_out
        self._null_loss = null_loss_of_episodes(train.way)
        self._drawn: dict[Stage, Episode] = {}

    def init(self, seed: int) -> Params:
        return self._learner.init(torch.Generator().manual_seed(seed))

    def batch(self, seeds: Tensor, steps: Tensor) -> Episode:
        drawn = self._train.draw(fold(seeds, steps), self._episodes)
        return Episode(*(part.flatten(1, 2) for part in drawn))  # (l, t * e, ...)

    def loss(
        self, params: Params, batch: Episode, hyper: Hyperparameters, weights: Tensor
    ) -> Tensor:
        logits = self._learner.meta_logits(params, batch, hyper)  # (t * e, q, way)
        losses = cross_entropy(logits.flatten(0, 1), batch.query_y.flatten(), reduction="none")
        per_task = losses.view(len(self.tasks), -1).mean(1) / self._null_loss
        return (weights * per_task).sum()

    def score(self, params: Params, hyper: Hyperparameters, stage: Stage) -> list[TaskScores]:
        pool, n_episodes, key = self._held_out[stage]
        if stage not in self._drawn:
            drawn = pool.draw(key, n_episodes)
            self._drawn[stage] = Episode(*(part.flatten(0, 1) for part in drawn))
        episodes = self._drawn[stage]
        mapped = vmap(self._learner.logits, in_dims=(0, None, 0))
        parts = zip(*(part.split(_EPISODES_AT_ONCE) for part in episodes), strict=True)
        chunks = [(Episode(*part), mapped(params, Episode(*part), hyper)) for part in parts]
        right = torch.cat([accuracy(logits, part.query_y) for part, logits in chunks], 1)
        f1 = torch.cat([macro_f1(logits, part.query_y) for part, logits in chunks], 1)
        right, f1 = (x.unflatten(1, (len(pool.names), n_episodes)) for x in (right, f1))
        return [
            TaskScores(
                name,
                skill(right[:, t], pool.way),
                {"accuracy": right[:, t].mean(1), "f1": f1[:, t].mean(1)},
            )
            for t, name in enumerate(pool.names)
        ]
