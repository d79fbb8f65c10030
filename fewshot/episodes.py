"""Episodes: few-shot problems drawn from tasks."""

from typing import NamedTuple

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
