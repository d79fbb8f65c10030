"""Adam over stacked parameters, with a rate, a weight decay and a step count for each lane.

Kingma and Ba, "Adam: a method for stochastic optimization", ICLR 2015.
"""

import torch
from torch import Tensor

from fewshot.functional import Params
from trials.lanes.optimizers.base import Slots

_BETA_1, _BETA_2, _EPS = 0.9, 0.999, 1e-8

# A hyperparameter that every trial may have; without it there is none.
WEIGHT_DECAY = "weight_decay"


def zeros_like(params: Params) -> Slots:
    """First and second moments of the gradients, before the first step."""
    return {
        moment: {name: torch.zeros_like(value) for name, value in params.items()}
        for moment in ("first", "second")
    }


@torch.no_grad()
def update_(params: Params, grads: Params, slots: Slots, steps: Tensor, rates: Tensor) -> None:
    """One step in place. All lead with l lanes; steps (l,) counts this one, from 1; rates (l,)."""
    steps = steps.to(rates.dtype)
    correction = (1 - _BETA_2**steps).sqrt()
    size = rates * correction / (1 - _BETA_1**steps)
    for name, value in params.items():
        grad, first, second = grads[name], slots["first"][name], slots["second"][name]
        lanes = (-1,) + (1,) * (value.dim() - 1)
        first.lerp_(grad, 1 - _BETA_1)
        second.mul_(_BETA_2).addcmul_(grad, grad, value=1 - _BETA_2)
        # rate * m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps), with each number read once less.
        scale = second.sqrt().add_(_EPS * correction.view(lanes))
        value.addcdiv_(first * -size.view(lanes), scale)


@torch.no_grad()
def decay_(params: Params, rates: Tensor, decays: Tensor) -> None:
    """Weight decay that the gradients know nothing of, in place, before a step; decays (l,) >= 0.

    theta <- (1 - rate * decay) * theta: then it is AdamW. Loshchilov and Hutter, "Decoupled weight
    decay regularization", ICLR 2019.
    """
    for value in params.values():
        value.mul_((1 - rates * decays).view((-1,) + (1,) * (value.dim() - 1)))
