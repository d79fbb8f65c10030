"""A learner: how a model learns a new task from its support set."""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from fewshot.episodes import Episode
from fewshot.functional import Hyperparameters, Params


class Learner(Protocol):
    """Pure functions, mapped by `torch.func.vmap` over the parameters of many trials.

    Episodes come as a stack of b. `hyperparameters` names the scalars the learner reads, which
    arrive as 0-dimensional tensors.
    """

    hyperparameters: tuple[str, ...]
    model_scores_classes: bool  # whether the model's outputs are the classes of an episode

    def init(self, generator: torch.Generator) -> Params:
        """Fresh meta-parameters."""

    def logits(self, params: Params, episodes: Episode, hyper: Hyperparameters) -> Tensor:
        """Class scores (b, way * query, way) of the queries, having learned from the support.

        Of functions, the numbers (b, query, 1) predicted for them.
        """

    def meta_logits(self, params: Params, episodes: Episode, hyper: Hyperparameters) -> Tensor:
        """The same while meta-training, where it differs (fewer steps, another rate)."""


@runtime_checkable
class OwnLoss(Protocol):
    """What a learner has besides, if it is not by the loss of `meta_logits` that it is trained."""

    def meta_losses(self, params: Params, episodes: Episode, hyper: Hyperparameters) -> Tensor:
        """Loss (b,) of each episode."""


@runtime_checkable
class OwnParameters(Protocol):
    """What a learner has besides, if training tasks may have parameters for themselves."""

    per_task: tuple[str, ...]  # names of those parameters, see `fewshot.learners.per_task`
