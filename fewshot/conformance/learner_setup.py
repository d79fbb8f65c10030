"""Learners, parameters and problems for the tests of the laws of `Learner`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewshot.conformance.problems import WAY, WIDTH, classes, numbers
from fewshot.episodes import Episode
from fewshot.functional import Hyperparameters, Params
from fewshot.kinds import CLASSIFICATION, REGRESSION, Kind
from fewshot.learners.base import CustomLoss, Learner
from fewshot.learners.fine_tuned import STEPS
from fewshot.learners.learners import LearnerFactory
from fewshot.models.mlp import MLP
from fewshot.registry import options_of


class Case(NamedTuple):
    """A kind of problem on which learners are tested."""

    kind: Kind
    options: dict[str, Any]  # of the learner
    problems: Callable[..., Episode]
    rate: float  # about which the hyperparameters vary


CASES = {
    "classes": Case(CLASSIFICATION, {"way": WAY}, classes, 0.3),
    "numbers": Case(REGRESSION, {"way": 1, "kind": REGRESSION}, numbers, 0.05),
}


def made(make: LearnerFactory, *, hidden: tuple[int, ...] = (8,), **options: Any) -> Learner:
    """A learner on a small perceptron; `way` is WAY unless it is among the `options`."""
    # Few steps, because more steps test nothing more.
    few = {"adapt_steps": 2} if "adapt_steps" in options_of(make, ()) else {}
    options = {"way": WAY, **few, **options}
    n_out = options["way"] if make.model_scores_classes else 8
    return make(model=MLP(features=(WIDTH,), hidden=hidden, n_out=n_out), **options)


def fresh(learner: Learner, seed: int = 0, dtype: torch.dtype = torch.float64) -> Params:
    """Initial meta-parameters."""
    params = learner.init(torch.Generator().manual_seed(seed))
    return {name: value.to(dtype) for name, value in params.items()}


def hyperparameters(
    make: LearnerFactory, rate: float = 0.3, dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    """Values about `rate`, different for each hyperparameter; two adaptation steps."""
    names = enumerate(make.hyperparameters)
    values = {name: torch.tensor(rate * (1 + i / 8), dtype=dtype) for i, name in names}
    return values | {name: torch.tensor(2.0, dtype=dtype) for name in values if name == STEPS}


def meta_loss(
    learner: Learner, problems: Episode, hyper: Hyperparameters, kind: Kind = CLASSIFICATION
) -> Callable[[Params], Tensor]:
    """The loss of meta-training as a function of the parameters."""

    def loss(params: Params) -> Tensor:
        if isinstance(learner, CustomLoss):
            return learner.meta_losses(params, problems, hyper).mean()
        outputs = learner.meta_logits(params, problems, hyper)
        return kind.losses(outputs, problems.query_y).mean()

    return loss


class Lanes(NamedTuple):
    """Three trials of a learner, separate and stacked."""

    params: list[Params]
    hyper: list[dict[str, Tensor]]
    stacked_params: Params
    stacked_hyper: dict[str, Tensor]


def stacked(dictionaries: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """One dictionary with the tensors of all, stacked along a new first dimension."""
    return {key: torch.stack([one[key] for one in dictionaries]) for key in dictionaries[0]}
