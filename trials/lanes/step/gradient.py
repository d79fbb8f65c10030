"""The gradient of each lane's loss with respect to its own parameters."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fewshot.functional import Hyperparameters, Params
from trials.lanes.objective import Objective
from trials.lanes.step.capture import Captured
from trials.lanes.step.mapping import over_lanes

# Of l lanes: parameters, what was drawn, hyperparameters and task weights (l, t) -> gradients and
# losses (l,). All lead with l.
Gradient = Callable[[Params, Any, Hyperparameters, Tensor], tuple[Params, Tensor]]


def gradient_of(objective: Objective) -> Gradient:
    """The gradient of what was drawn from `objective`, captured for each number of lanes."""
    of_batch = Captured(_gradient(over_lanes(objective.loss)))

    def gradient(
        params: Params, drawn: Any, hyper: Hyperparameters, weights: Tensor
    ) -> tuple[Params, Tensor]:
        return of_batch(params, objective.batch(drawn), hyper, weights)

    # Of one piece, where what is drawn does not decide on the shape of its batch.
    return Captured(gradient)


def _gradient(losses_of: Callable[..., Tensor]) -> Gradient:
    def gradient(
        params: Params, batch: Any, hyper: Hyperparameters, weights: Tensor
    ) -> tuple[Params, Tensor]:
        own = {name: value.detach().requires_grad_() for name, value in params.items()}
        with torch.enable_grad():
            losses = losses_of(own, batch, hyper, weights)
        # No lane's loss hangs on another's parameters: the gradient of their sum is that of each.
        # And not `torch.func.grad`, which spends a second on importing a compiler.
        found = torch.autograd.grad(
            losses, list(own.values()), torch.ones_like(losses), materialize_grads=True
        )
        return dict(zip(own, found, strict=True)), losses.detach()

    return gradient
