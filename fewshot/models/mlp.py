"""A multilayer perceptron with ReLU between layers; without hidden layers, a linear map."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fewshot.errors.inputs import check_sizes, input_error
from fewshot.functional import Params, linear_params


class MLP:
    """(b, *features) -> (b, n_out); the features are flattened.

    hidden: widths of the hidden layers, each >= 1; n_out: width of the output.
    """

    def __init__(
        self, *, features: Sequence[int], hidden: Sequence[int] = (128,), n_out: int = 64
    ) -> None:
        if not isinstance(hidden, list | tuple):
            raise input_error("model.hidden", "must be a list of widths, such as [64].", hidden)
        check_sizes("model", lists=["hidden"], hidden=hidden, n_out=n_out)
        self.n_out = n_out
        self._sizes = (math.prod(features), *hidden, n_out)
        self.head: tuple[str, ...] = (f"weight{len(hidden)}", f"bias{len(hidden)}")

    def init(self, generator: torch.Generator) -> Params:
        params: Params = {}
        pairs = zip(self._sizes[:-1], self._sizes[1:], strict=True)
        for i, (n_in, n_out) in enumerate(pairs):
            params[f"weight{i}"], params[f"bias{i}"] = linear_params(n_in, n_out, generator)
        return params

    def apply(self, params: Params, x: Tensor) -> Tensor:
        x = x.flatten(1)
        last = len(self._sizes) - 2
        for i in range(last + 1):
            x = x @ params[f"weight{i}"] + params[f"bias{i}"]
            if i < last:
                x = x.relu()
        return x
