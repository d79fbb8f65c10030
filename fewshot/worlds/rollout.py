"""Trajectories of policies in worlds, all in one pass."""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from fewshot.functional import Params
from fewshot.randomness import fold
from fewshot.worlds.base import Actions, World

# Streams of random numbers of a trajectory.
_START, _MOVE, _REWARD, _CHOICE = 0, 1, 2, 3


class Rollout(NamedTuple):
    """h steps of trajectories, time first.

    A dead step, after a terminal state, has reward 0; its observation and action mean nothing.
    """

    observations: Tensor  # (h, ..., n_observation), before the action
    actions: Tensor  # (h, ..., n), or (h, ...) int64 if discrete
    rewards: Tensor  # (h, ...)
    alive: Tensor  # (h, ...), 1.0 or 0.0: whether the step was taken


class Before(NamedTuple):
    """What a policy may know of the step before it, if any."""

    action: Tensor  # (..., n), or (...) int64 if discrete; see `no_action`
    reward: Tensor  # (...)
    started: Tensor  # (...), 1.0 at the first step of a trajectory, else 0.0


# (parameters, memory, observation (..., o), step before, keys (...)) -> action, memory. A policy
# without a memory returns None.
Act = Callable[[Params, Tensor | None, Tensor, Before, Tensor], tuple[Tensor, Tensor | None]]


@runtime_checkable
class RollsOut(Protocol):
    """A world that is not a function of tensors: it makes its trajectories itself."""

    horizon: int
    n_observation: int
    actions: Actions

    def problem(self, key: Tensor) -> Tensor:
        """See `World.problem`."""

    def roll_out(
        self,
        act: Act,
        params: Params,
        memory: Tensor | None,
        problem: Tensor,
        keys: Tensor,
        trajectories: int,
    ) -> Rollout:
        """See `rollout`."""


def no_action(actions: Actions, like: Tensor) -> Tensor:
    """The action before the first one: choice -1, or zeros; like: a key (...)."""
    if actions.discrete:
        return torch.full_like(like, -1)
    return torch.zeros((*like.shape, actions.n), device=like.device)


def rollout(
    world: World | RollsOut,
    act: Act,
    params: Params,
    memory: Tensor | None,
    problem: Tensor,
    keys: Tensor,
    trajectories: int = 1,
) -> Rollout:
    """`trajectories` trajectories in sequence for each problem (..., p) and key (...).

    memory: of the policy, (..., m). It is kept from one trajectory to the next.
    No gradient is computed.
    """
    with torch.no_grad():
        if isinstance(world, RollsOut):
            return world.roll_out(act, params, memory, problem, keys, trajectories)
        return _rolled_out(world, act, params, memory, problem, keys, trajectories)


def _rolled_out(
    world: World,
    act: Act,
    params: Params,
    memory: Tensor | None,
    problem: Tensor,
    keys: Tensor,
    trajectories: int,
) -> Rollout:
    steps: list[list[Tensor]] = [[], [], [], []]
    nothing = torch.zeros_like(problem[..., 0])
    before = Before(no_action(world.actions, keys), nothing, nothing + 1)
    count = torch.arange(trajectories * world.horizon, device=keys.device)
    streams = [fold(fold(keys, stream)[..., None], count) for stream in (_MOVE, _REWARD, _CHOICE)]
    per_step = [own.unbind(-1) for own in streams]
    starts = fold(fold(keys, _START)[..., None], count[:trajectories]).unbind(-1)
    for start in range(trajectories):
        state, alive = world.initial(starts[start], problem), nothing + 1
        for t in range(start * world.horizon, (start + 1) * world.horizon):
            move, chance, choice = (own[t] for own in per_step)
            seen = world.observation(state, problem)
            action, new = act(params, memory, seen, before, choice)
            if memory is not None and new is not None:
                memory = torch.where(alive[..., None] > 0, new, memory)
            after = world.transition(state, action, move, problem)
            reward = world.reward(state, action, after, chance, problem) * alive
            for kept, value in zip(steps, (seen, action, reward, alive), strict=True):
                kept.append(value)
            before = Before(action, reward, nothing)
            state = after
            alive = alive * ~world.terminal(after, problem)
        before = before._replace(started=nothing + 1)
    return Rollout(*(torch.stack(values) for values in steps))


def returns_to_go(rewards: Tensor, discount: float) -> Tensor:
    """sum_k discount^k r_(t+k) for rewards (h, ...) of consecutive steps."""
    steps = torch.arange(len(rewards), device=rewards.device)
    ahead = (steps - steps[:, None]).to(rewards.dtype)  # (h, h): steps from t to t + k
    weights = torch.where(ahead >= 0, discount ** ahead.clamp(min=0), 0)
    return (weights @ rewards.flatten(1)).view(rewards.shape)
