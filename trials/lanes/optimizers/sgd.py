"""Gradient descent with momentum over stacked parameters; each lane has its own learning rate.

v <- m v + g, theta <- theta - rate * v, m = 0.9. Sutskever, Martens, Dahl and Hinton, "On the
importance of initialization and momentum in deep learning", ICML 2013.
"""

import torch
from torch import Tensor

from fewshot.functional import Params
from trials.lanes.optimizers.base import Slots

_MOMENTUM = 0.9


def zeros_like(params: Params) -> Slots:
    """The velocity before the first step."""
    return {"velocity": {name: torch.zeros_like(value) for name, value in params.items()}}


@torch.no_grad()
def update_(params: Params, grads: Params, slots: Slots, steps: Tensor, rates: Tensor) -> None:
    """Take one step in place. The first dimension of all tensors is l, the lanes. rates: (l,)."""
    del steps
    for name, value in params.items():
        velocity = slots["velocity"][name].mul_(_MOMENTUM).add_(grads[name])
        value.addcmul_(velocity, rates.view((-1,) + (1,) * (value.dim() - 1)), value=-1)
