"""Batches of texts of similar length, whose embeddings are means over tokens."""

import torch
from torch import Tensor

from fewshot.functional import unit

_STEP = 4  # tokens: texts of one batch differ in length by fewer than this
_FEWEST = 256  # tokens of a batch; smaller batches are joined with the next longer texts


def token_counts(ids: Tensor, padding: int) -> Tensor:
    """Number of ids (n,), at least 1, up to the last that is not padding: ids (n, length)."""
    places = torch.arange(1, ids.shape[1] + 1, device=ids.device)
    return torch.where(ids != padding, places, 1).amax(1)


def similar_lengths(lengths: Tensor) -> list[Tensor]:
    """The rows of each batch; all rows of lengths (n,) are in one of them."""
    ordered, order = lengths.sort(stable=True)
    widths = (ordered + _STEP - 1) // _STEP
    batches: list[Tensor] = []
    parts: list[Tensor] = []
    tokens = 0
    sizes = torch.unique_consecutive(widths, return_counts=True)[1].tolist()
    for rows, own in zip(order.split(sizes), ordered.split(sizes), strict=True):
        parts.append(rows)
        tokens += int(own.sum())
        if tokens >= _FEWEST:
            batches.append(torch.cat(parts))
            parts, tokens = [], 0
    return [*batches, torch.cat(parts)] if parts else batches


def mean_embedding(hidden: Tensor, real: Tensor) -> Tensor:
    """Means over the real tokens, scaled to length 1: (b, length, d), (b, length) -> (b, d)."""
    inside = real.unsqueeze(-1)
    return unit(torch.where(inside, hidden, 0.0).sum(1) / inside.sum(1).clamp(min=1))
