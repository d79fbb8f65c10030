"""Parameters that each training task has of its own, for tasks that differ much.

A training task i starts at (theta, m + s * (phi_i - m)), m = mean_j phi_j. A new task starts at
(theta, m). If phi is the last layer, tasks share all other layers and have their own heads. If phi
is the logarithm of a rate, tasks have their own rates.

s in [0, 1] is the hyperparameter `task/own`. At s = 1 the phi_i are independent. At s = 0 all tasks
share m: each phi_i has the same gradient, so all phi_i stay equal.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import vmap

from fewshot.episodes import Episode
from fewshot.errors.inputs import input_error
from fewshot.functional import Hyperparameters, Params
from fewshot.learners.base import CustomLoss, KeepsAdapted, Learner

OWN = "task/own"

_Method = Callable[[Params, Episode, Hyperparameters], Tensor]


def is_per_task(option: str, value: str) -> bool:
    """Whether an option is `per_task` and not `shared`; raises InputError if it is neither."""
    if value not in ("shared", "per_task"):
        raise input_error(f"learner.{option}", "must be shared or per_task.", value)
    return value == "per_task"


class PerTask:
    """A learner whose `own` parameters have a first dimension of n_tasks, initially all equal.

    During meta-training, the episodes are of the training tasks in `own_tasks`, sorted by task and
    with the same number for each task. A new task starts at the mean over the tasks in `peers`,
    which are the training tasks of its kind.
    """

    def __init__(
        self,
        learner: Learner,
        own: tuple[str, ...],
        *,
        n_tasks: int,
        own_tasks: slice,
        peers: slice,
    ) -> None:
        self.hyperparameters = (*learner.hyperparameters, OWN)
        self.model_scores_classes = learner.model_scores_classes
        self._learner, self._own, self._n_tasks = learner, own, n_tasks
        self._own_tasks, self._peers = own_tasks, peers
        if isinstance(learner, CustomLoss):
            self._own_loss = learner
            self.meta_losses = self._losses  # only then: its presence makes this a `CustomLoss`
        if isinstance(learner, KeepsAdapted):
            self._keeps = learner
            self.fit, self.predict = self._fit, learner.predict

    def init(self, generator: torch.Generator) -> Params:
        params = self._learner.init(generator)
        return params | {
            name: params[name].expand(self._n_tasks, *params[name].shape).clone()
            for name in self._own
        }

    def logits(self, params: Params, episodes: Episode, hyper: Hyperparameters) -> Tensor:
        return self._learner.logits(params | self._means(params), episodes, hyper)

    def meta_logits(self, params: Params, episodes: Episode, hyper: Hyperparameters) -> Tensor:
        return self._each(self._learner.meta_logits, params, episodes, hyper)

    def _losses(self, params: Params, episodes: Episode, hyper: Hyperparameters) -> Tensor:
        return self._each(self._own_loss.meta_losses, params, episodes, hyper)

    def _fit(self, params: Params, x: Tensor, y: Tensor, hyper: Hyperparameters) -> Params:
        return self._keeps.fit(params | self._means(params), x, y, hyper)

    def _means(self, params: Params) -> Params:
        return {name: params[name][self._peers].mean(0) for name in self._own}

    def _each(
        self, method: _Method, params: Params, episodes: Episode, hyper: Hyperparameters
    ) -> Tensor:
        """The results of `method` for the episodes of each task, with the task's own parameters."""
        n_tasks = self._own_tasks.stop - self._own_tasks.start
        by_task = Episode(*(part.unflatten(0, (n_tasks, -1)) for part in episodes))
        mine = params | {
            name: mean + hyper[OWN] * (params[name][self._own_tasks] - mean)
            for name, mean in self._means(params).items()
        }
        mapped = {name: 0 if name in self._own else None for name in mine}
        results: Tensor = vmap(method, in_dims=(mapped, 0, None))(mine, by_task, hyper)
        return results.flatten(0, 1)
