"""Some of a model's outputs: the head of one kind of task, on a trunk that kinds have in common."""

import torch
from torch import Tensor

from fewshot.functional import Params
from fewshot.models.base import Model


class Columns:
    """(b, *features) -> (b, n_out), the outputs of `model` from `first` on.

    The parameters are the model's. Of its last layer, a loss of these outputs moves no others.
    """

    def __init__(self, model: Model, first: int, n_out: int) -> None:
        self.n_out = n_out
        self.head = model.head
        self._model, self._columns = model, slice(first, first + n_out)

    def init(self, generator: torch.Generator) -> Params:
        return self._model.init(generator)

    def apply(self, params: Params, x: Tensor) -> Tensor:
        return self._model.apply(params, x)[..., self._columns]
