"""The interface of a learner, which adapts a model to a new task by its support set."""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from fewshot.episodes import Episode
from fewshot.functional import Hyperparameters, Params


class Learner(Protocol):
    """Pure functions, which `torch.func.vmap` maps over the parameters of many trials.

    Episodes are given as a stack of b. `hyperparameters` names the scalars that the learner reads.
    They are passed as 0-dimensional tensors.
    """

    hyperparameters: tuple[str, ...]
    model_scores_classes: bool  # whether the model outputs class logits, instead of an embedding

    def init(self, generator: torch.Generator) -> Params:
        """Initial meta-parameters."""

    def logits(self, params: Params, episodes: Episode, hyper: Hyperparameters) -> Tensor:
        """Logits (b, way * query, way) of the queries after adaptation to the support.

        For regression tasks, the predicted numbers (b, query, 1).
        """

    def meta_logits(self, params: Params, episodes: Episode, hyper: Hyperparameters) -> Tensor:
        """The same during meta-training, which may differ, for example in the number of steps."""


@runtime_checkable
class KeepsAdapted(Protocol):
    """Extra methods of a learner whose adapted model can be kept without the support set.

    For one problem, `predict(fit(...), x)` is what `logits` returns for the queries x, up to
    rounding. Classes that are not in the support may have any logit. Learners that wrap another
    learner have these methods only if the other learner has them.
    """

    def fit(self, params: Params, x: Tensor, y: Tensor, hyper: Hyperparameters) -> Params:
        """The parameters of the adapted model, from the support x (s, *features) and y (s, ...)."""

    def predict(self, fitted: Params, x: Tensor) -> Tensor:
        """Logits (n, way), or predicted numbers (n, 1), of x (n, *features)."""


@runtime_checkable
class CustomLoss(Protocol):
    """An extra method of a learner that is not trained by the loss of its `meta_logits`."""

    def meta_losses(self, params: Params, episodes: Episode, hyper: Hyperparameters) -> Tensor:
        """Loss (b,) of each episode."""


@runtime_checkable
class PerTaskParameters(Protocol):
    """An extra attribute of a learner in which each training task may have its own parameters."""

    per_task: tuple[str, ...]  # names of these parameters, see `fewshot.learners.per_task`


@runtime_checkable
class ClassLoss(Protocol):
    """An extra method of a learner that is trained to classify all classes of a training task."""

    def class_losses(
        self,
        params: Params,
        episodes: Episode,
        tasks: Tensor,
        classes: Tensor,
        hyper: Hyperparameters,
    ) -> Tensor:
        """Cross-entropy (b,) of each episode over all classes of its task.

        Its null loss is log C, where C is the number of classes of the task.

        tasks: (b,) int64, the index of each episode's task.
        classes: (b, way) int64. Class y of episode i is class `classes[i, y]` of its task.
        """
