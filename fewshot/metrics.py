"""Scores of predictions with their standard errors."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fewshot.functional import one_hot


class Estimate(NamedTuple):
    """A mean with its standard error over `n` independent observations."""

    mean: float
    standard_error: float
    n: int

    def interval(self) -> tuple[float, float]:
        """95 % interval, normal approximation."""
        half = 1.96 * self.standard_error
        return self.mean - half, self.mean + half


def estimate(values: Tensor) -> Estimate:
    """Mean and standard error (ddof = 1) of `values` (n,); n = 1 has a standard error of NaN."""
    n = values.numel()
    values = values.double()
    se = values.std().item() / math.sqrt(n) if n > 1 else math.nan
    return Estimate(values.mean().item(), se, n)


def by_group(values: Tensor, groups: Tensor) -> Tensor:
    """One number (..., g) for each of g groups, with the mean of `values` (..., n).

    groups: (n,) codes. Observations of one group are not independent, so the standard error of the
    mean of `values` is too small, while that of these numbers is right for groups that are a random
    sample: group j with n_j of the n values and their mean m_j has m + (m_j - m) n_j g / n, where m
    is the mean of all values. The numbers of a difference are the difference of the numbers.
    """
    codes, counts = groups.unique(return_inverse=True, return_counts=True)[1:]
    values, n_groups = values.double(), len(counts)
    mean = values.mean(-1, keepdim=True)
    away = (values - mean) @ one_hot(codes, n_groups, values)  # sums over the groups
    numbers: Tensor = mean + away * (n_groups / values.shape[-1])
    return numbers


def mean_of(estimates: Sequence[Estimate]) -> Estimate:
    """Unweighted mean of independent estimates, for example of tasks; n is the sum of their n."""
    k = len(estimates)
    se = math.sqrt(sum(e.standard_error**2 for e in estimates)) / k
    return Estimate(sum(e.mean for e in estimates) / k, se, sum(e.n for e in estimates))


def error_over_tasks(estimates: Sequence[Estimate]) -> float:
    """Standard error of the mean of `estimates`, treated as a random sample of all tasks.

    It is NaN for a single estimate. It already includes the standard errors of the tasks
    themselves, because they add to the spread of the means.
    """
    means = torch.tensor([e.mean for e in estimates], dtype=torch.float64)
    return estimate(means).standard_error


def skill(accuracy: Tensor, way: int | Tensor) -> Tensor:
    """(accuracy - chance) / (1 - chance): 1 is perfect, 0 is chance level, < 0 is below chance."""
    chance = 1.0 / (way.double() if isinstance(way, Tensor) else way)
    return (accuracy - chance) / (1.0 - chance)


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of correctly classified queries; logits (..., q, c), labels (..., q) -> (...).

    Queries with the label -1 are padding.
    """
    right = (logits.argmax(-1) == labels).double().sum(-1)
    return right / (labels >= 0).sum(-1)


def macro_f1(logits: Tensor, labels: Tensor, n_classes: int | Tensor | None = None) -> Tensor:
    """Unweighted mean over classes of F1; logits (..., q, c), labels (..., q) -> (...).

    The mean is over the first `n_classes` of the c classes, by default over all. A class that is
    neither present nor predicted has F1 zero, as in scikit-learn with `zero_division=0`. Queries
    with the label -1 are padding.
    """
    c = logits.shape[-1]
    like = logits.double()
    actual = one_hot(labels, c, like)
    predicted = one_hot(logits.argmax(-1), c, like) * (labels >= 0).unsqueeze(-1)
    hits = (predicted * actual).sum(-2)
    total = predicted.sum(-2) + actual.sum(-2)
    return (2 * hits / total.clamp(min=1)).sum(-1) / (c if n_classes is None else n_classes)


def expected_calibration_error(probabilities: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Mean gap between confidence and accuracy; probabilities (n, c), labels (n,), n >= 1.

    The confidence is the probability of the predicted class. Predictions are sorted by confidence
    into `bins` bins of equal width. The gaps of the bins are weighted by their sizes.

    Naeini, Cooper and Hauskrecht, "Obtaining well calibrated probabilities using Bayesian binning",
    AAAI 2015.
    """
    confidence, predicted = probabilities.double().max(-1)
    gap = confidence - (predicted == labels).double()
    place = (confidence * bins).long().clamp(max=bins - 1)
    sums = torch.zeros(bins, dtype=torch.float64).index_add(0, place, gap)
    return float(sums.abs().sum() / len(labels))
