"""No model: the inputs are the embedding. Every trained model has to be better than this one."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fewshot.functional import Params


class Untrained:
    """(b, *features) -> (b, product of the features). It has no parameters.

    features: shape of one example; without it `n_out` is 1 and says nothing.
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
