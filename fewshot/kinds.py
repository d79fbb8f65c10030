"""What is predicted, classes or numbers: how a prediction is charged, and how it is scored."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import cross_entropy

from fewshot.metrics import accuracy, macro_f1, skill

Scores = dict[str, Tensor]


@dataclass(frozen=True)
class Kind:
    """Functions of predictions (..., q, c) and answers, (..., q) classes or (..., q, c) numbers.

    losses: (..., q), of each query.
    scores: (...), of each episode: `skill`, 0 for knowing nothing and 1 for perfect, and others, of
    which those in `reported` are shown. Their last argument is the null loss, broadcast to (...).
    """

    name: str
    reported: tuple[str, ...]
    losses: Callable[[Tensor, Tensor], Tensor]
    scores: Callable[[Tensor, Tensor, Tensor], Scores]


def _cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    flat = cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none")
    return flat.view(labels.shape)


def _of_classes(logits: Tensor, labels: Tensor, null_loss: Tensor) -> Scores:
    del null_loss  # chance is known
    right = accuracy(logits, labels)
    return {
        "skill": skill(right, logits.shape[-1]),
        "accuracy": right,
        "f1": macro_f1(logits, labels),
    }


def _squared_errors(predicted: Tensor, values: Tensor) -> Tensor:
    return (predicted - values).square().mean(-1)


def _of_numbers(predicted: Tensor, values: Tensor, null_loss: Tensor) -> Scores:
    mse = _squared_errors(predicted, values).double().mean(-1)
    return {"skill": 1 - mse / null_loss, "mse": mse}


CLASSIFICATION = Kind("classification", ("accuracy", "f1"), _cross_entropies, _of_classes)
REGRESSION = Kind("regression", ("mse", "skill"), _squared_errors, _of_numbers)
