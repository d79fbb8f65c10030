"""Parameters that each training task has for itself, where tasks are unlike.

A training task i begins at (theta, m + s * (phi_i - m)), m = mean_j phi_j; a new task begins at
(theta, m). Where phi is the last layer, each task has a head of its own on the trunk that they
share; where it is the logarithm of a rate, its own pace.

s in [0, 1] is the hyperparameter `task/own`. At 1 no task has a say in what is another's. At 0 they
have all in common: each phi_i has the same gradient, so that they stay one, as if there were one.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import vmap

from fewshot.episodes import Episode
from fewshot.errors.inputs import input_error
from fewshot.functional import Hyperparameters, Params
from fewshot.learners.base import Learner, OwnLoss

OWN = "task/own"

_Asked = Callable[[Params, Episode, Hyperparameters], Tensor]


def is_per_task(option: str, value: str) -> bool:
    """Whether an option is `per_task` and not `shared`; raises InputError if it is neither."""
    if value not in ("shared", "per_task"):
        raise input_error(f"learner.{option}", "must be shared or per_task.", value)
    return value == "per_task"


class PerTask:
    """A learner whose `own` parameters lead with n_tasks, all of which begin alike.

    While meta-training the episodes are of the training tasks in `own_tasks`, as many of each, task
    by task. A new task begins at the mean over the tasks in `peers`, which are those of its kind.
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
        if isinstance(learner, OwnLoss):
            self._own_loss = learner
            self.meta_losses = self._losses  # and has none to offer else

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

    def _means(self, params: Params) -> Params:
        return {name: params[name][self._peers].mean(0) for name in self._own}

    def _each(
        self, ask: _Asked, params: Params, episodes: Episode, hyper: Hyperparameters
    ) -> Tensor:
        """What `ask` says of the episodes of each task, with the task's own parameters."""
        n_tasks = self._own_tasks.stop - self._own_tasks.start
        by_task = Episode(*(part.unflatten(0, (n_tasks, -1)) for part in episodes))
        mine = params | {
            name: mean + hyper[OWN] * (params[name][self._own_tasks] - mean)
            for name, mean in self._means(params).items()
        }
        mapped = {name: 0 if name in self._own else None for name in mine}
        found: Tensor = vmap(ask, in_dims=(mapped, 0, None))(mine, by_task, hyper)
        return found.flatten(0, 1)
