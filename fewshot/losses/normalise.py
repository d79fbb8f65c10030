"""The loss of the best constant predictor, by which a task's loss is divided."""

import math
from collections.abc import Sequence

from fewshot.errors.inputs import ErrorDetail, InputError


def null_loss_of_episodes(low: int, high: int) -> float:
    """Cross-entropy of always giving each class the same chance, the mean over episodes.

    They have from `low` to `high` classes, each number as often as the others, and as many queries
    of every class.
    """
    ways = range(low, high + 1)
    return sum(map(math.log, ways)) / len(ways)


def check_null_losses(names: Sequence[str], null_losses: Sequence[float]) -> None:
    """Raises InputError with each task whose loss can't be divided by its null loss."""
    details = [
        ErrorDetail(
            f"tasks.{name}",
            "has nothing to learn: the best constant answer makes no error that could be measured.",
            null_loss,
            "Its null loss must be a number above 0. Take it out, or look at its labels.",
        )
        for name, null_loss in zip(names, null_losses, strict=True)
        if not 0 < null_loss < math.inf
    ]
    if details:
        raise InputError(details)
