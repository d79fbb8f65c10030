"""Episodes: few-shot problems drawn from tasks."""

from typing import NamedTuple

import torch
from torch import Tensor

Count = int | tuple[int, int]  # always this many, or drawn for each episode from low to high


class Episode(NamedTuple):
    """One way-class, shot-example problem, or a stack of them along leading dimensions.

    The classes are numbered 0..way-1 in an order drawn for the episode; rows go class by class.
    Of a function there are `shot` and `query` points, with numbers (..., n, 1) for labels.

    Where episodes differ in way, shot or query, all have the shapes of the largest. A row with the
    label -1 is padding: nothing is learned from it, and it scores nothing. A class that no support
    row is labelled with is not in the episode. The support and the queries have the same classes.
    """

    support_x: Tensor  # (..., way * shot, *features)
    support_y: Tensor  # (..., way * shot) int64
    query_x: Tensor  # (..., way * query, *features)
    query_y: Tensor  # (..., way * query) int64


def bounds(count: Count) -> tuple[int, int]:
    """The lowest and the highest."""
    return (count, count) if isinstance(count, int) else count


def fixed(count: Count) -> int:
    """The number, where there is no choice; raises ValueError."""
    low, high = bounds(count)
    if low < high:
        raise ValueError(f"Episodes must all have one shape here, got {low} to {high}.")
    return low


def gather_rows(inputs: Tensor, rows: Tensor) -> Tensor:
    """inputs[rows], five times as fast: inputs (n, *features), rows (...) -> (..., *features)."""
    return inputs.index_select(0, rows.flatten()).view(*rows.shape, *inputs.shape[1:])


def with_inputs(rows: Episode, inputs: Tensor) -> Episode:
    """The episode whose examples are the rows (n, *features) of `inputs` that `rows` names."""
    both = [rows.support_x, rows.query_x]
    # In one piece, which it can stay where all are embedded alike.
    found = gather_rows(inputs, torch.cat(both, -1))
    support, query = found.split([part.shape[-1] for part in both], both[0].dim() - 1)
    return rows._replace(support_x=support, query_x=query)


def hide_query_labels(episode: Episode) -> Episode:
    """The episode as one sees it who has to solve it: all answers to the queries are zero."""
    return episode._replace(query_y=torch.zeros_like(episode.query_y))
