"""The loss of the best constant predictor, by which a task's loss is divided."""

import math


def null_loss_of_episodes(way: int) -> float:
    """Cross-entropy of always giving each of `way` equally frequent classes the same chance."""
    return math.log(way)
