"""The null loss: the loss of the best constant predictor, which divides a task's loss."""

import math
from collections.abc import Sequence

from fewshot.errors.inputs import ErrorDetail, InputError


def null_loss_of_episodes(low: int, high: int) -> float:
    """Mean cross-entropy, over episodes, of the predictor that gives all classes equal probability.

    Each number of classes from `low` to `high` is equally likely, and all classes of an episode
    have the same number of queries.
    """
    ways = range(low, high + 1)
    return sum(map(math.log, ways)) / len(ways)


def check_null_losses(names: Sequence[str], null_losses: Sequence[float]) -> None:
    """Raises InputError that lists all tasks whose null loss is not a number above 0."""
    details = [
        ErrorDetail(
            f"tasks.{name}",
            "has nothing to learn, because the best constant prediction has no measurable loss.",
            null_loss,
            "The loss must be a number above 0. Remove the task, or check its labels.",
        )
        for name, null_loss in zip(names, null_losses, strict=True)
        if not 0 < null_loss < math.inf
    ]
    if details:
        raise InputError(details)
