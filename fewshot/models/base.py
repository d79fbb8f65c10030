"""A model: a pure function of parameters and inputs."""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from fewshot.functional import Params


class Model(Protocol):
    """Parameters are a flat dictionary; `apply` keeps no state, so it can be mapped over them.

    A class may say `fills_processor = True`, if its operations are so large that those of many
    lanes at once are no faster on a CPU, or slower, as what lies between them leaves the caches.
    Lanes are taken one by one there.
    """

    n_out: int  # width of what `apply` returns
    head: tuple[str, ...]  # names of the parameters of the last layer

    def init(self, generator: torch.Generator) -> Params:
        """Fresh parameters, drawn from `generator` (on the CPU, whatever the device later)."""

    def apply(self, params: Params, x: Tensor) -> Tensor:
        """Outputs (b, n_out) of inputs (b, *features)."""


@runtime_checkable
class Trims(Protocol):
    """What a model has besides, if its inputs are padded and it is faster on short ones."""

    def trim(self, x: Tensor) -> Tensor:
        """x (..., length) without the columns behind that are padding everywhere."""
