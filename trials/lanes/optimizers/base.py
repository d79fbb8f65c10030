"""What takes the gradients of stacked lanes to their parameters."""

from typing import Protocol

from torch import Tensor

from fewshot.functional import Params

# What an optimiser remembers of each parameter, by what it is.
Slots = dict[str, Params]


class Optimizer(Protocol):
    """Two functions, which a module is enough for. All tensors lead with l lanes."""

    def zeros_like(self, params: Params) -> Slots:
        """What is remembered before the first step."""

    def update_(
        self, params: Params, grads: Params, slots: Slots, steps: Tensor, rates: Tensor
    ) -> None:
        """One step in place; steps (l,) counts this one, from 1; rates (l,)."""
