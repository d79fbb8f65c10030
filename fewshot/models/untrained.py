"""The untrained model: it returns its inputs, and every trained model must be better."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fewshot.functional import Params


class Untrained:
    """(b, *features) -> (b, product of the features - leave_out). It has no parameters.

    features: the shape of one example; by default `n_out` is 1 and has no meaning.
    leave_out: >= 0, the number of last features that are left out, such as those of a text.
    """

    head: tuple[str, ...] = ()

    def __init__(self, *, features: Sequence[int] = (), leave_out: int = 0) -> None:
        self.n_out = math.prod(features) - leave_out
        self._leave_out = leave_out

    def init(self, generator: torch.Generator) -> Params:
        del generator
        return {}

    def apply(self, params: Params, x: Tensor) -> Tensor:
        del params
        flat = x.flatten(1)
        return flat[:, : flat.shape[1] - self._leave_out]
