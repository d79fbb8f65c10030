"""A point in the plane that has to find a goal that it does not see.

The state is a position, at first (0, 0). An action moves it by at most 0.1 in each direction. The
reward is the negative distance from the goal, g ~ U[-0.5, 0.5]^2. A trajectory of at most 100 steps
ends when both coordinates are within 0.01 of the goal.

Finn, Abbeel and Levine, "Model-agnostic meta-learning for fast adaptation of deep networks", ICML
2017. The paper describes a squared distance; this is the distance of its published code.
"""

import torch
from torch import Tensor

from fewshot.randomness import uniform
from fewshot.worlds.base import Actions

_SPEED, _NEAR = 0.1, 0.01


class Navigation:
    """The `World`. A problem is the goal (..., 2)."""

    def __init__(self, *, horizon: int = 100) -> None:
        self.horizon = horizon
        self.n_observation = 2
        self.actions = Actions(2, discrete=False)

    def problem(self, key: Tensor) -> Tensor:
        return uniform(key, 2) - 0.5

    def initial(self, key: Tensor, problem: Tensor) -> Tensor:
        del key
        return torch.zeros_like(problem)

    def transition(self, state: Tensor, action: Tensor, key: Tensor, problem: Tensor) -> Tensor:
        del key, problem
        return state + _SPEED * action.clamp(-1, 1)

    def observation(self, state: Tensor, problem: Tensor) -> Tensor:
        del problem
        return state

    def reward(
        self, state: Tensor, action: Tensor, next_state: Tensor, key: Tensor, problem: Tensor
    ) -> Tensor:
        del state, action, key
        return -(next_state - problem).square().sum(-1).sqrt()

    def terminal(self, state: Tensor, problem: Tensor) -> Tensor:
        return ((state - problem).abs() < _NEAR).all(-1)

    def expert(self, state: Tensor, problem: Tensor) -> Tensor:
        """Straight to the goal."""
        away = (problem - state) / _SPEED
        return away / away.abs().amax(-1, keepdim=True).clamp(min=1)
