"""A subset of a model's outputs, for one of several kinds of task that share the model."""

import torch
from torch import Tensor

from fewshot.functional import Params
from fewshot.models.base import Model


class OutputSlice:
    """(b, *features) -> (b, n_out), the n_out outputs of `model` that start at `first`.

    The parameters are those of the model. A loss of these outputs has zero gradient for the parts
    of the last layer that belong to the other outputs.
    """

    def __init__(self, model: Model, first: int, n_out: int) -> None:
        self.n_out = n_out
        self.head = model.head
        self._model, self._columns = model, slice(first, first + n_out)

    def init(self, generator: torch.Generator) -> Params:
        return self._model.init(generator)

    def apply(self, params: Params, x: Tensor) -> Tensor:
        return self._model.apply(params, x)[..., self._columns]
