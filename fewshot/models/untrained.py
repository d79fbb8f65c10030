"""No model: the inputs are the embedding. What every trained model has to be worth more than."""

import torch
from torch import Tensor

from fewshot.functional import Params


class Untrained:
    """(b, *features) -> (b, product of the features)."""

    n_out = 0  # whatever the inputs have
    head: tuple[str, ...] = ()

    def init(self, generator: torch.Generator) -> Params:
        del generator
        return {}

    def apply(self, params: Params, x: Tensor) -> Tensor:
        del params
        return x.flatten(1)
