"""A pendulum that is swung up by a weak motor, as `Pendulum-v1` of gymnasium, of varied physics.

A problem has a gravity, a mass and a length, each uniform in its range. A trajectory has 200 steps
of 0.05 seconds. The reward is -(angle^2 + 0.1 velocity^2 + 0.001 torque^2), where the angle 0 is
upright.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fewshot.randomness import uniform
from fewshot.worlds.base import Actions

_STEP, _TORQUE, _SPEED = 0.05, 2.0, 8.0
Range = Sequence[float]


class Pendulum:
    """The `World`. A state is an angle and its velocity; a problem is (..., 3).

    gravity, mass, length: (low, high) of the physics that vary.
    """

    def __init__(
        self,
        *,
        gravity: Range = (8.0, 12.0),
        mass: Range = (0.8, 1.2),
        length: Range = (0.8, 1.2),
        horizon: int = 200,
    ) -> None:
        self._ranges = [tuple(map(float, pair)) for pair in (gravity, mass, length)]
        self.horizon, self.n_observation = horizon, 3
        self.actions = Actions(1, discrete=False)

    def problem(self, key: Tensor) -> Tensor:
        u = uniform(key, 3).unbind(-1)
        return torch.stack([a + (b - a) * x for x, (a, b) in zip(u, self._ranges, strict=True)], -1)

    def initial(self, key: Tensor, problem: Tensor) -> Tensor:
        del problem
        u = 2 * uniform(key, 2) - 1
        return torch.stack([math.pi * u[..., 0], u[..., 1]], -1)

    def transition(self, state: Tensor, action: Tensor, key: Tensor, problem: Tensor) -> Tensor:
        del key
        (angle, velocity), (g, m, length) = state.unbind(-1), problem.unbind(-1)
        torque = _TORQUE * action[..., 0].clamp(-1, 1)
        pull = 3 * g / (2 * length) * angle.sin() + 3 / (m * length.square()) * torque
        velocity = (velocity + pull * _STEP).clamp(-_SPEED, _SPEED)
        return torch.stack([angle + velocity * _STEP, velocity], -1)

    def observation(self, state: Tensor, problem: Tensor) -> Tensor:
        """The cosine and the sine of the angle, and its velocity."""
        del problem
        angle, velocity = state.unbind(-1)
        return torch.stack([angle.cos(), angle.sin(), velocity], -1)

    def reward(
        self, state: Tensor, action: Tensor, next_state: Tensor, key: Tensor, problem: Tensor
    ) -> Tensor:
        del next_state, key, problem
        angle, velocity = state.unbind(-1)
        angle = torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
        torque = _TORQUE * action[..., 0].clamp(-1, 1)
        return -(angle.square() + 0.1 * velocity.square() + 0.001 * torque.square())

    def terminal(self, state: Tensor, problem: Tensor) -> Tensor:
        del problem
        return state[..., 0].isnan()  # never: the horizon ends it

    def expert(self, state: Tensor, problem: Tensor) -> Tensor:
        """Pumps energy until the pendulum is nearly upright, then balances it.

        Astrom and Furuta, "Swinging up a pendulum by energy control", Automatica 2000.
        """
        (angle, velocity), (g, m, length) = state.unbind(-1), problem.unbind(-1)
        angle = torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
        inertia = m * length.square() / 3
        energy = 0.5 * inertia * velocity.square() + 0.5 * m * g * length * (angle.cos() - 1)
        pump = torch.where(velocity < 0, -1.0, 1.0) * torch.where(energy < 0, 1.0, -1.0)
        hold = -(10 * angle + 2 * velocity) / _TORQUE
        near = (angle.abs() < 0.5) & (velocity.abs() < 3)
        return torch.where(near, hold, pump).clamp(-1, 1).unsqueeze(-1)
