"""What is predicted, classes or numbers: how a prediction is charged, and how it is scored."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fewshot.functional import cross_entropies, mask_absent_classes
from fewshot.metrics import accuracy, macro_f1, skill

Scores = dict[str, Tensor]


@dataclass(frozen=True)
class Kind:
    """Functions of predictions (..., q, c) and answers, (..., q) classes or (..., q, c) numbers.

    losses: (..., q), of each query; 0 for padding, for which the others weigh more, so that their
    mean over all q is that over the real ones.
    possible: predictions, without what answers (..., n, ...) of the support show to be impossible.
    null_losses: (...), of the best constant predictor of each episode, from the answers to its
    queries and the null losses (...) of the tasks that the episodes are of.
    scores: (...), of each episode: `skill`, 0 for knowing nothing, 1 for perfect, and NaN where a
    prediction is; and others, of which those in `reported` are shown. Their last argument is the
    null loss, broadcast to (...).
    """

    name: str
    reported: tuple[str, ...]
    losses: Callable[[Tensor, Tensor], Tensor]
    mask_absent_classes: Callable[[Tensor, Tensor], Tensor]
    null_losses: Callable[[Tensor, Tensor], Tensor]
    scores: Callable[[Tensor, Tensor, Tensor], Scores]


def _cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    real = (labels >= 0).sum(-1, keepdim=True)
    return cross_entropies(logits, labels) * (labels.shape[-1] / real)


def _n_classes(labels: Tensor) -> Tensor:
    """(...), of the episodes that queries (..., q) are of: every class has some."""
    return labels.amax(-1) + 1


def _log_n_classes(labels: Tensor, of_tasks: Tensor) -> Tensor:
    return _n_classes(labels).to(of_tasks.dtype).log()


def _of_classes(logits: Tensor, labels: Tensor, null_loss: Tensor) -> Scores:
    del null_loss  # chance is known
    right, way = accuracy(logits, labels), _n_classes(labels)
    # The largest of numbers that are none is some class, and might be the right one.
    numbers = ~(logits.isnan().any(-1) & (labels >= 0)).any(-1)
    return {
        "skill": skill(right, way).where(numbers, torch.nan),
        "accuracy": right,
        "f1": macro_f1(logits, labels, way),
    }


def _squared_errors(predicted: Tensor, values: Tensor) -> Tensor:
    return (predicted - values).square().mean(-1)


def _of_numbers(predicted: Tensor, values: Tensor, null_loss: Tensor) -> Scores:
    mse = _squared_errors(predicted, values).double().mean(-1)
    return {"skill": 1 - mse / null_loss, "mse": mse}


CLASSIFICATION = Kind(
    "classification",
    ("accuracy", "f1"),
    _cross_entropies,
    mask_absent_classes,
    _log_n_classes,
    _of_classes,
)
REGRESSION = Kind(
    "regression",
    ("mse", "skill"),
    _squared_errors,
    lambda predicted, values: predicted,
    lambda values, of_tasks: of_tasks,
    _of_numbers,
)
