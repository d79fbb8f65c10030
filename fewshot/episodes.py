"""Episodes: few-shot problems drawn from tasks."""

from typing import NamedTuple

import torch
from torch import Tensor

Count = int | tuple[int, int]  # a fixed number, or (low, high) to draw one for each episode


class Episode(NamedTuple):
    """One N-way K-shot problem, or a stack of problems along leading dimensions.

    The classes are numbered 0..way-1 in a random order. Rows are sorted by class. A regression
    problem has `shot` and `query` examples, whose labels are numbers (..., n, 1).

    If episodes differ in way, shot or query, all have the shapes of the largest. A row with the
    label -1 is padding: it is neither learned nor scored. A class without a support row is not in
    the episode. The support and the queries have the same classes.
    """

    support_x: Tensor  # (..., way * shot, *features)
    support_y: Tensor  # (..., way * shot) int64
    query_x: Tensor  # (..., way * query, *features)
    query_y: Tensor  # (..., way * query) int64


def bounds(count: Count) -> tuple[int, int]:
    """The lowest and the highest value of a count."""
    return (count, count) if isinstance(count, int) else count


def fixed(count: Count) -> int:
    """The value of a fixed count; raises ValueError if it is a range."""
    low, high = bounds(count)
    if low < high:
        raise ValueError(f"Episodes must all have one shape here, got {low} to {high}.")
    return low


def gather_rows(inputs: Tensor, rows: Tensor) -> Tensor:
    """inputs[rows], five times faster: inputs (n, *features), rows (...) -> (..., *features)."""
    return inputs.index_select(0, rows.flatten()).view(*rows.shape, *inputs.shape[1:])


def with_inputs(rows: Episode, inputs: Tensor) -> Episode:
    """The episode with row numbers replaced by these rows of `inputs` (n, *features)."""
    both = [rows.support_x, rows.query_x]
    # Support and query stay views of one tensor, so that embedding both needs no copy.
    examples = gather_rows(inputs, torch.cat(both, -1))
    support, query = examples.split([part.shape[-1] for part in both], both[0].dim() - 1)
    return rows._replace(support_x=support, query_x=query)


def hide_query_labels(episode: Episode) -> Episode:
    """The episode with all query labels set to zero, so that a learner can't read them."""
    return episode._replace(query_y=torch.zeros_like(episode.query_y))
