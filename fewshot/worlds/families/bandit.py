"""Arms that pay 1 with an unknown probability, else 0.

A problem has `arms` probabilities p ~ U[0, 1]. A trajectory is one pull; there is nothing to see.

Duan, Schulman, Chen, Bartlett, Sutskever and Abbeel, "RL^2: Fast reinforcement learning via slow
reinforcement learning", 2016.
"""

import torch
from torch import Tensor

from fewshot.errors.inputs import input_error
from fewshot.randomness import uniform
from fewshot.worlds.base import Actions


class Bandit:
    """The `World`. A problem is the probabilities (..., arms)."""

    def __init__(self, *, arms: int = 5) -> None:
        if arms < 2:
            raise input_error("arms", "must be at least 2.", arms)
        self.horizon, self.n_observation = 1, 1
        self.actions = Actions(arms, discrete=True)

    def problem(self, key: Tensor) -> Tensor:
        return uniform(key, self.actions.n)

    def initial(self, key: Tensor, problem: Tensor) -> Tensor:
        del key
        return torch.zeros_like(problem[..., :1])

    def transition(self, state: Tensor, action: Tensor, key: Tensor, problem: Tensor) -> Tensor:
        del action, key, problem
        return state

    def observation(self, state: Tensor, problem: Tensor) -> Tensor:
        del problem
        return state

    def reward(
        self, state: Tensor, action: Tensor, next_state: Tensor, key: Tensor, problem: Tensor
    ) -> Tensor:
        del state, next_state
        chance = problem.gather(-1, action.unsqueeze(-1)).squeeze(-1)
        return (uniform(key, 1).squeeze(-1) < chance).to(problem.dtype)

    def terminal(self, state: Tensor, problem: Tensor) -> Tensor:
        del problem
        return state[..., 0] > 0  # never: the horizon ends it

    def expert(self, state: Tensor, problem: Tensor) -> Tensor:
        """The best arm."""
        del state
        return problem.argmax(-1)
