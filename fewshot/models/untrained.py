"""The untrained model: it returns its inputs, and every trained model must be better."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fewshot.functional import Params


class Untrained:
    """(b, *features) -> (b, product of the features). It has no parameters.

    features: the shape of one example; by default `n_out` is 1 and has no meaning.
    """

    head: tuple[str, ...] = ()

    def __init__(self, *, features: Sequence[int] = ()) -> None:
        self.n_out = math.prod(features)

    def init(self, generator: torch.Generator) -> Params:
        del generator
        return {}

    def apply(self, params: Params, x: Tensor) -> Tensor:
        del params
        return x.flatten(1)
