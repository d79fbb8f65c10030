"""The gradient of each lane's loss with respect to its own parameters."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fewshot.functional import Hyperparameters, Params
from trials.lanes.objective import Objective
from trials.lanes.step.capture import Captured
from trials.lanes.step.mapping import over_lanes

# For l lanes: (parameters, drawn examples, hyperparameters, task weights (l, t)) -> (gradients,
# losses (l,)). The first dimension of all tensors is l.
Gradient = Callable[[Params, Any, Hyperparameters, Tensor], tuple[Params, Tensor]]


def gradient_of(objective: Objective) -> Gradient:
    """The function that computes the gradients and the losses of all lanes.

    Its operations are recorded once for each number of lanes, see `trials.lanes.step.capture`.
    """
    of_batch: Gradient = _gradient(objective)
    if objective.captured:
        of_batch = Captured(of_batch)

    def gradient(
        params: Params, drawn: Any, hyper: Hyperparameters, weights: Tensor
    ) -> tuple[Params, Tensor]:
        return of_batch(params, objective.batch(drawn), hyper, weights)

    # Captured as a whole if the shape of the batch does not depend on the drawn values.
    return Captured(gradient) if objective.captured else gradient


def _gradient(objective: Objective) -> Gradient:
    losses_of = over_lanes(objective.loss)

    def gradient(
        params: Params, batch: Any, hyper: Hyperparameters, weights: Tensor
    ) -> tuple[Params, Tensor]:
        own = {name: value.detach().requires_grad_() for name, value in params.items()}
        with torch.enable_grad():
            losses = losses_of(own, objective.embed(own, batch), hyper, weights)
        # Each lane's loss depends only on its own parameters, so the gradient of the sum holds the
        # gradient of each lane. `torch.func.grad` would spend a second on importing a compiler.
        grads = torch.autograd.grad(
            losses, list(own.values()), torch.ones_like(losses), materialize_grads=True
        )
        return dict(zip(own, grads, strict=True)), losses.detach()

    return gradient
