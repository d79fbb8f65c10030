"""A cart that balances a pole, as `CartPole-v1` of gymnasium, of varied physics.

A problem has a gravity, the mass of the pole, half of its length, and the force of a push, each
uniform in its range. Each of at most 200 steps of 0.02 seconds gives the reward 1. A trajectory
ends when the pole leans by more than 12 degrees, or the cart is more than 2.4 from the middle.

Barto, Sutton and Anderson, "Neuronlike adaptive elements that can solve difficult learning control
problems", 1983.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fewshot.randomness import uniform
from fewshot.worlds.base import Actions

_STEP, _CART, _FAR, _LEAN = 0.02, 1.0, 2.4, 12 * 2 * math.pi / 360
Range = Sequence[float]


class CartPole:
    """The `World`. A state is position, velocity, angle and its velocity; a problem is (..., 4).

    gravity, mass, length, force: (low, high) of the physics that vary. Forces may be negative: the
    actions then push in the other direction.
    """

    def __init__(
        self,
        *,
        gravity: Range = (9.0, 10.5),
        mass: Range = (0.05, 0.2),
        length: Range = (0.3, 0.8),
        force: Range = (7.0, 13.0),
        horizon: int = 200,
    ) -> None:
        self._ranges = [tuple(map(float, pair)) for pair in (gravity, mass, length, force)]
        self.horizon, self.n_observation = horizon, 4
        self.actions = Actions(2, discrete=True)

    def problem(self, key: Tensor) -> Tensor:
        u = uniform(key, 4).unbind(-1)
        return torch.stack([a + (b - a) * x for x, (a, b) in zip(u, self._ranges, strict=True)], -1)

    def initial(self, key: Tensor, problem: Tensor) -> Tensor:
        del problem
        return 0.1 * uniform(key, 4) - 0.05

    def transition(self, state: Tensor, action: Tensor, key: Tensor, problem: Tensor) -> Tensor:
        del key
        x, v, angle, turn = state.unbind(-1)
        g, mass, length, force = problem.unbind(-1)
        push, total = force * (2 * action - 1), mass + _CART
        sin, cos = angle.sin(), angle.cos()
        moved = (push + mass * length * turn.square() * sin) / total
        bend = (g * sin - cos * moved) / (length * (4 / 3 - mass * cos.square() / total))
        speed = moved - mass * length * bend * cos / total
        parts = [x + _STEP * v, v + _STEP * speed, angle + _STEP * turn, turn + _STEP * bend]
        return torch.stack(parts, -1)

    def observation(self, state: Tensor, problem: Tensor) -> Tensor:
        del problem
        return state

    def reward(
        self, state: Tensor, action: Tensor, next_state: Tensor, key: Tensor, problem: Tensor
    ) -> Tensor:
        del action, next_state, key, problem
        return torch.ones_like(state[..., 0])

    def terminal(self, state: Tensor, problem: Tensor) -> Tensor:
        del problem
        return (state[..., 0].abs() > _FAR) | (state[..., 2].abs() > _LEAN)

    def expert(self, state: Tensor, problem: Tensor) -> Tensor:
        """Pushes to the side to which the pole falls, and a little towards the middle."""
        x, v, angle, turn = state.unbind(-1)
        leans = angle + 0.2 * turn + 0.02 * x + 0.04 * v > 0
        return (leans == (problem[..., 3] > 0)).long()
