"""The loss of the best constant predictor, by which a task's loss is divided."""

import math


def null_loss_of_episodes(low: int, high: int) -> float:
    """Cross-entropy of always giving each class the same chance, the mean over episodes.

    They have from `low` to `high` classes, each number as often as the others, and as many queries
    of every class.
    """
    ways = range(low, high + 1)
    return sum(map(math.log, ways)) / len(ways)
