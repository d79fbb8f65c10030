"""Scores of predictions, each with its uncertainty."""

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


def mean_of(estimates: Sequence[Estimate]) -> Estimate:
    """Unweighted mean of independent estimates (tasks, say); n counts them all."""
    k = len(estimates)
    se = math.sqrt(sum(e.standard_error**2 for e in estimates)) / k
    return Estimate(sum(e.mean for e in estimates) / k, se, sum(e.n for e in estimates))


def error_over_tasks(estimates: Sequence[Estimate]) -> float:
    """Standard error of their mean, taken for a sample of all tasks; a single one has NaN.

    What the tasks' own errors do to their means is in it already.
    """
    means = torch.tensor([e.mean for e in estimates], dtype=torch.float64)
    return estimate(means).standard_error


def skill(accuracy: Tensor, way: int | Tensor) -> Tensor:
    """(accuracy - chance) / (1 - chance): 0 is guessing, 1 is perfect, below 0 worse than that."""
    chance = 1.0 / (way.double() if isinstance(way, Tensor) else way)
    return (accuracy - chance) / (1.0 - chance)


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of queries classified right; logits (..., q, c), labels (..., q) -> (...).

    Queries with the label -1 are padding.
    """
    right = (logits.argmax(-1) == labels).double().sum(-1)
    return right / (labels >= 0).sum(-1)


def macro_f1(logits: Tensor, labels: Tensor, n_classes: int | Tensor | None = None) -> Tensor:
    """Unweighted mean over classes of F1; logits (..., q, c), labels (..., q) -> (...).

    Of the c classes the first `n_classes` count, all by default. One that is neither present nor
    predicted counts as zero, as in scikit-learn with `zero_division=0`. Queries with the label -1
    are padding.
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

    The confidence is the probability of the predicted class. Predictions are put into `bins` of
    equal width by their confidence, and the gaps of the bins are weighted by their sizes.

    Naeini, Cooper and Hauskrecht, "Obtaining well calibrated probabilities using Bayesian binning",
    AAAI 2015.
    """
    confidence, predicted = probabilities.double().max(-1)
    gap = confidence - (predicted == labels).double()
    place = (confidence * bins).long().clamp(max=bins - 1)
    sums = torch.zeros(bins, dtype=torch.float64).index_add(0, place, gap)
    return float(sums.abs().sum() / len(labels))
