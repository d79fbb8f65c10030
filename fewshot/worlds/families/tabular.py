"""Random Markov decision processes with few states.

A problem has 10 states and 5 actions. The next state's probabilities of each state and action are
Dirichlet(1, .., 1); the mean reward of each is N(1, 1), and a reward is N(mean, 1). A trajectory
starts in state 0 and has 10 steps.

Duan, Schulman, Chen, Bartlett, Sutskever and Abbeel, "RL^2: Fast reinforcement learning via slow
reinforcement learning", 2016; Osband, Russo and Van Roy, "(More) efficient reinforcement learning
via posterior sampling", NeurIPS 2013.
"""

import torch
from torch import Tensor

from fewshot.functional import one_hot
from fewshot.randomness import fold, normal, uniform
from fewshot.worlds.base import Actions

_STATES, _ACTIONS, _HORIZON = 10, 5, 10
_PAIRS = _STATES * _ACTIONS
_TINY = 1e-12


class Tabular:
    """The `World`. A state is its number and the step; an observation is the state, one-hot.

    A problem (..., 50 * 11) has for each state and action the ten probabilities and the mean.
    """

    def __init__(self) -> None:
        self.horizon, self.n_observation = _HORIZON, _STATES
        self.actions = Actions(_ACTIONS, discrete=True)

    def problem(self, key: Tensor) -> Tensor:
        # Exponential numbers that are divided by their sum have a Dirichlet(1, .., 1) distribution.
        drawn = -(1 - uniform(fold(key, 0), _PAIRS * _STATES)).log() + _TINY
        waits = drawn.unflatten(-1, (_PAIRS, _STATES))
        chances = waits / waits.sum(-1, keepdim=True)
        means = 1 + normal(fold(key, 1), _PAIRS)
        return torch.cat([chances.flatten(-2), means], -1)

    def initial(self, key: Tensor, problem: Tensor) -> Tensor:
        del key
        return torch.zeros_like(problem[..., :2])

    @staticmethod
    def _pair(state: Tensor, action: Tensor) -> Tensor:
        return state[..., 0].long() * _ACTIONS + action

    def transition(self, state: Tensor, action: Tensor, key: Tensor, problem: Tensor) -> Tensor:
        chances = problem[..., :-_PAIRS].unflatten(-1, (_PAIRS, _STATES))
        pair = self._pair(state, action)[..., None, None].expand(*action.shape, 1, _STATES)
        edges = chances.gather(-2, pair).squeeze(-2).cumsum(-1)
        drawn = (uniform(key, 1) >= edges[..., :-1]).to(problem.dtype).sum(-1)
        return torch.stack([drawn, state[..., 1] + 1], -1)

    def observation(self, state: Tensor, problem: Tensor) -> Tensor:
        return one_hot(state[..., 0].long(), _STATES, problem)

    def reward(
        self, state: Tensor, action: Tensor, next_state: Tensor, key: Tensor, problem: Tensor
    ) -> Tensor:
        del next_state
        pair = self._pair(state, action).unsqueeze(-1)
        mean = problem[..., -_PAIRS:].gather(-1, pair)
        return (mean + normal(key, 1)).squeeze(-1)

    def terminal(self, state: Tensor, problem: Tensor) -> Tensor:
        del problem
        return state[..., 0] < 0  # never: the horizon ends it

    def expert(self, state: Tensor, problem: Tensor) -> Tensor:
        """The action with the highest expected return until the horizon (backward induction)."""
        shape = (_STATES, _ACTIONS)
        chances = problem[..., :-_PAIRS].unflatten(-1, (*shape, _STATES))
        means = problem[..., -_PAIRS:].unflatten(-1, shape)
        values, best = means, means.argmax(-1)
        step = state[..., 1]
        for left in range(2, _HORIZON + 1):
            after = values.amax(-1)[..., None, None, :]
            values = means + (chances * after).sum(-1)
            is_now = (step == _HORIZON - left).unsqueeze(-1)
            best = torch.where(is_now, values.argmax(-1), best)
        chosen: Tensor = best.gather(-1, state[..., :1].long()).squeeze(-1)
        return chosen
