"""A bag of tokens: the mean of token embeddings, then a linear layer; small enough for a phone."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fewshot.errors.inputs import check_sizes
from fewshot.functional import Params, linear_params


class Bag:
    """(b, length) int64 ids -> (b, n_out). Id 0 is padding and is ignored.

    n_ids: ids are in 0..n_ids-1. width: of the embeddings.
    """

    head: tuple[str, ...] = ("weight", "bias")

    def __init__(
        self, *, features: Sequence[int], n_ids: int = 8192, width: int = 64, n_out: int = 64
    ) -> None:
        del features  # any length
        check_sizes("model", n_ids=n_ids, width=width, n_out=n_out)
        self.n_out = n_out
        self._n_ids, self._width = n_ids, width

    def init(self, generator: torch.Generator) -> Params:
        embedding = torch.randn(self._n_ids, self._width, generator=generator) * 0.1
        weight, bias = linear_params(self._width, self.n_out, generator)
        return {"embedding": embedding, "weight": weight, "bias": bias}

    def apply(self, params: Params, x: Tensor) -> Tensor:
        present = (x > 0).unsqueeze(-1)
        embedded = torch.nn.functional.embedding(x, params["embedding"]) * present
        mean = embedded.sum(1) / present.sum(1).clamp(min=1)
        return mean @ params["weight"] + params["bias"]
