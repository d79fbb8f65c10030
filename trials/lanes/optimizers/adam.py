"""Adam over stacked parameters; each lane has its own rate, weight decay, step count.

Kingma and Ba, "Adam: a method for stochastic optimization", ICLR 2015.
"""

import torch
from torch import Tensor

from fewshot.functional import Params
from trials.lanes.optimizers.base import Slots

_BETA_1, _BETA_2, _EPS = 0.9, 0.999, 1e-8

# An optional hyperparameter of every trial; without it there is no weight decay.
WEIGHT_DECAY = "weight_decay"


def zeros_like(params: Params) -> Slots:
    """First and second moments of the gradients, before the first step."""
    return {
        moment: {name: torch.zeros_like(value) for name, value in params.items()}
        for moment in ("first", "second")
    }


@torch.no_grad()
def update_(params: Params, grads: Params, slots: Slots, steps: Tensor, rates: Tensor) -> None:
    """Take one step in place. The first dimension of all tensors is l, the lanes.

    steps: (l,), the number of this step, from 1. rates: (l,).
    """
    steps = steps.to(rates.dtype)
    correction = (1 - _BETA_2**steps).sqrt()
    size = rates * correction / (1 - _BETA_1**steps)
    for name, value in params.items():
        grad, first, second = grads[name], slots["first"][name], slots["second"][name]
        lanes = (-1,) + (1,) * (value.dim() - 1)
        first.lerp_(grad, 1 - _BETA_1)
        second.mul_(_BETA_2).addcmul_(grad, grad, value=1 - _BETA_2)
        # rate * m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps), arranged to read each number one
        # time less.
        scale = second.sqrt().add_(_EPS * correction.view(lanes))
        value.addcdiv_(first * -size.view(lanes), scale)


@torch.no_grad()
def decay_(params: Params, rates: Tensor, decays: Tensor) -> None:
    """Apply decoupled weight decay in place, before a step; rates (l,), decays (l,) >= 0.

    theta <- (1 - rate * decay) * theta, as in AdamW. Loshchilov and Hutter, "Decoupled weight decay
    regularization", ICLR 2019.
    """
    for value in params.values():
        value.mul_((1 - rates * decays).view((-1,) + (1,) * (value.dim() - 1)))
