"""Episodes: few-shot problems drawn from tasks."""

from typing import NamedTuple

import torch
from torch import Tensor


class Episode(NamedTuple):
    """One way-class, shot-example problem, or a stack of them along leading dimensions.

    The classes are numbered 0..way-1 in an order drawn for the episode; rows go class by class.
    Of a function there are `shot` and `query` points, with numbers (..., n, 1) for labels.
    """

    support_x: Tensor  # (..., way * shot, *features)
    support_y: Tensor  # (..., way * shot) int64
    query_x: Tensor  # (..., way * query, *features)
    query_y: Tensor  # (..., way * query) int64


def looked_up(rows: Episode, inputs: Tensor) -> Episode:
    """The episode whose examples are the rows (n, *features) of `inputs` that `rows` names."""
    return rows._replace(support_x=inputs[rows.support_x], query_x=inputs[rows.query_x])


def unanswered(episode: Episode) -> Episode:
    """The episode as one sees it who has to solve it: all answers to the queries are zero."""
    return episode._replace(query_y=torch.zeros_like(episode.query_y))
