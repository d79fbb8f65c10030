"""Distributions of actions, from the outputs of a model."""

import math

import torch
from torch import Tensor

from fewshot.functional import Params, log_softmax
from fewshot.randomness import normal, uniform
from fewshot.worlds.base import Actions

LOG_STD = "policy.log_std"
_LOWEST = -13.8  # of the logarithm of a standard deviation: 1e-6
_HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)
_TINY = 1e-12


def spread_params(actions: Actions) -> Params:
    """The parameters of a policy beside those of its model: numbers start with deviation 1."""
    return {} if actions.discrete else {LOG_STD: torch.zeros(actions.n)}


def sample(actions: Actions, params: Params, outputs: Tensor, keys: Tensor) -> Tensor:
    """Random actions for outputs (..., n) and keys (...).

    Choices have the logits `outputs` (the Gumbel trick); numbers have the means `outputs`.
    params: the deviations of numbers are (n,), or (..., 1, n); see `spread_params`.
    """
    if actions.discrete:
        noise = -(-(uniform(keys, actions.n) + _TINY).log() + _TINY).log()
        return (outputs + noise).argmax(-1)
    return outputs + params[LOG_STD].clamp(min=_LOWEST).exp() * normal(keys, actions.n)


def likeliest(actions: Actions, outputs: Tensor) -> Tensor:
    """The most probable actions for outputs (..., n)."""
    return outputs.argmax(-1) if actions.discrete else outputs


def log_probabilities(actions: Actions, params: Params, outputs: Tensor, chosen: Tensor) -> Tensor:
    """Logarithms (...) of the probabilities, or densities, of chosen actions; see `sample`."""
    if actions.discrete:
        return log_softmax(outputs).gather(-1, chosen.unsqueeze(-1)).squeeze(-1)
    log_std = params[LOG_STD].clamp(min=_LOWEST)
    z = (chosen - outputs) * (-log_std).exp()
    return (-0.5 * z.square() - log_std - _HALF_LOG_TAU).sum(-1)


def entropies(actions: Actions, params: Params, outputs: Tensor) -> Tensor:
    """Entropies (...) of the policy; of numbers without the constant."""
    if actions.discrete:
        logs = log_softmax(outputs)
        return -(logs.exp() * logs).sum(-1)
    return params[LOG_STD].sum(-1).expand(outputs.shape[:-1])
