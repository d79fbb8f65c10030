"""The interface of optimisers over stacked parameters."""

from typing import Protocol

from torch import Tensor

from fewshot.functional import Params

# The optimiser's state: for each kind of state, such as a moment, one tensor per parameter.
Slots = dict[str, Params]


class Optimizer(Protocol):
    """Two functions; a module that has them is an optimiser.

    The first dimension of all tensors is l, the lanes.
    """

    def zeros_like(self, params: Params) -> Slots:
        """The state before the first step."""

    def update_(
        self, params: Params, grads: Params, slots: Slots, steps: Tensor, rates: Tensor
    ) -> None:
        """Take one step in place. steps: (l,), the number of this step, from 1. rates: (l,)."""
