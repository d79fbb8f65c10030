"""The two kinds of task: classification of examples, regression of numbers."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fewshot.functional import cross_entropies, mask_absent_classes
from fewshot.metrics import accuracy, macro_f1, skill

Scores = dict[str, Tensor]


@dataclass(frozen=True)
class Kind:
    """Functions of predictions (..., q, c) and labels: classes (..., q) or numbers (..., q, c).

    losses: the loss of each query, (..., q). Padding has loss 0, and the other losses are scaled up
        so that the mean over all q equals the mean over the real queries.
    mask_absent_classes: predictions in which classes that are not among the support labels
        (..., n, ...) are impossible.
    null_losses: the loss (...) of the best constant predictor of each episode, computed from the
        query labels and the null losses (...) of the episodes' tasks.
    scores: scores (...) of each episode. `skill` is 0 at chance level, 1 for perfect predictions,
        and NaN if a prediction is NaN. `reported` names the scores that are reported as metrics.
        The last argument is the null loss, broadcast to (...).
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
    """Number of classes (...) of episodes with query labels (..., q); every class has queries."""
    return labels.amax(-1) + 1


def _log_n_classes(labels: Tensor, of_tasks: Tensor) -> Tensor:
    return _n_classes(labels).to(of_tasks.dtype).log()


def _of_classes(logits: Tensor, labels: Tensor, null_loss: Tensor) -> Scores:
    del null_loss  # the chance level depends only on the number of classes
    right, way = accuracy(logits, labels), _n_classes(labels)
    # The argmax of NaN logits is some class, which could be the right one by accident.
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
