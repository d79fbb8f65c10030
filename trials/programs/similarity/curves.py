"""Nearness and transfer of families of functions, whose examples have no features.

A function is represented by its values at `_POINTS` evenly spread points, so that the distance of
two functions is the error of one as a prediction of the other.

The linear probe of a family is the best linear prediction of a function's values from its values at
other points, which follows from the mean m and the covariance C of the family's values:

y(Q) = m(Q) + C(Q, S) (C(S, S) + r I)^-1 (y(S) - m(S)).

It predicts functions of a validation family from `shot` of their points S. The skill, 1 - MSE /
variance, is 0 for the mean of the validation family. That is also what a probe of permuted values
can at best predict, so the skill is the gain.
"""

import torch
from torch import Tensor
from torch.linalg import solve

from fewshot.episodes import fixed
from fewshot.metrics import Estimate, estimate
from fewshot.randomness import fold
from fewshot.tasks.functions import FunctionPool
from trials.contract import Recipe
from trials.programs.similarity.affinity import key_of

_LOW, _HIGH, _POINTS = -5.0, 5.0, 64
# Functions of each family whose distances are compared, that fit a probe, and that judge it.
_COMPARED, _FITTED, _JUDGED = 256, 2048, 512
# The penalty r, as a part of the mean variance of the family.
_PENALTY = 1e-2
# Makes the random keys of validation functions different from those of training functions.
_VALIDATION = 1


def examples_of(
    recipe: Recipe, train: FunctionPool, validation: FunctionPool
) -> tuple[list[Tensor], list[Tensor]]:
    """Values (n, points) of functions of each training family and of each validation family."""
    return _values(recipe, train, _COMPARED, 0), _values(recipe, validation, _COMPARED, _VALIDATION)


def gains(recipe: Recipe, train: FunctionPool, validation: FunctionPool) -> list[list[Estimate]]:
    """The skill of each training family's probe on each validation family, over functions."""
    fitted = _values(recipe, train, _FITTED, 0)
    judged = _values(recipe, validation, _JUDGED, _VALIDATION)
    generator = torch.Generator().manual_seed(recipe.seed)
    shot = min(fixed(recipe.shot), _POINTS - 1)
    order = torch.stack([torch.randperm(_POINTS, generator=generator) for _ in range(_JUDGED)])
    support, query = order.split([shot, _POINTS - shot], 1)
    return [
        [
            estimate(1 - _errors(family, own, support, query) / null.double())
            for own, null in zip(judged, validation.null_losses, strict=True)
        ]
        for family in fitted
    ]


def _values(recipe: Recipe, pool: FunctionPool, n: int, stream: int) -> list[Tensor]:
    """Values (n, points) of n functions of each family."""
    keys = fold(fold(key_of(recipe), stream), torch.arange(n))
    x = torch.linspace(_LOW, _HIGH, _POINTS).expand(n, _POINTS)
    return [family(x, fold(keys, i)).double() for i, family in enumerate(pool.families)]


def _errors(fitted: Tensor, judged: Tensor, support: Tensor, query: Tensor) -> Tensor:
    """Mean squared errors (f,) of the probe of one family on f functions of another.

    fitted: (n, points). judged: (f, points). support, query: places (f, s) and (f, q).
    """
    mean, covariance = fitted.mean(0), fitted.T.cov()
    penalty = _PENALTY * covariance.diagonal().mean() * torch.eye(support.shape[1]).double()
    known = covariance[support[:, :, None], support[:, None, :]] + penalty  # (f, s, s)
    across = covariance[query[:, :, None], support[:, None, :]]  # (f, q, s)
    away = (judged.gather(1, support) - mean[support]).unsqueeze(-1)
    predicted = mean[query] + (across @ solve(known, away)).squeeze(-1)
    errors: Tensor = (predicted - judged.gather(1, query)).square().mean(1)
    return errors
