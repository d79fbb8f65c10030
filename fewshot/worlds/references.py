"""What a world's returns are compared with, measured on a fixed sample of its problems."""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from fewshot.errors.inputs import input_error
from fewshot.functional import Params
from fewshot.randomness import fold
from fewshot.worlds.base import World
from fewshot.worlds.rollout import Before, RollsOut, returns_to_go, rollout
from fewshot.worlds.variants import random_action

_PROBLEMS, _TRAJECTORIES = 128, 8
_DISCOUNT = 0.99


class References(NamedTuple):
    """Mean returns of a trajectory, and their spread.

    random: of uniformly random actions. expert: of the world's expert.
    spread: > 0, the root mean square of what random actions gain over the mean of their problem, of
        the returns from each step on, discounted by 0.99. Losses of policy gradients are divided by
        it, so that task weights mean the same in every unit of reward. It is a fixed number: the
        spread of a batch would amplify the noise of a policy that has nothing left to gain.
    """

    random: float
    expert: float
    spread: float

    def skill(self, returns: Tensor) -> Tensor:
        """0 for the return of random actions, 1 for that of the expert."""
        return (returns.double() - self.random) / (self.expert - self.random)


@runtime_checkable
class KnowsReferences(Protocol):
    """An extra method of a world whose references are not measured."""

    def references(self) -> References:
        """The references."""


def references_of(world: World, path: str = "world", *, scored: bool = True) -> References:
    """The references.

    scored: whether skills are needed. Raises InputError if the expert of such a world is no better
    than random actions, or if all returns of a world are the same.
    """
    if isinstance(world, KnowsReferences):
        return world.references()
    keys = fold(torch.tensor(0), torch.arange(_PROBLEMS))
    each = fold(fold(keys, 1)[:, None], torch.arange(_TRAJECTORIES))
    problem = world.problem(fold(keys, 0))[:, None].expand(-1, _TRAJECTORIES, -1)
    found = measured(world, problem, each, expert_return(world, problem, each))
    if not found.spread > 0 or (scored and not found.expert > found.random):
        rule = "needs an expert with a higher return than random actions, and returns that differ."
        values = {name: round(value, 4) for name, value in found._asdict().items()}
        raise input_error(path, rule, values)
    return found


def measured(world: World | RollsOut, problem: Tensor, keys: Tensor, expert: float) -> References:
    """References from random actions in problems (b, n, p), each n times, with keys (b, n)."""

    def wanders(
        params: Params, memory: Tensor | None, seen: Tensor, before: Before, keys: Tensor
    ) -> tuple[Tensor, None]:
        return random_action(world.actions, keys), None

    tried = rollout(world, wanders, {}, None, problem, keys)
    gains = returns_to_go(tried.rewards, _DISCOUNT)
    gains = (gains - gains.mean(2, keepdim=True)) * tried.alive
    spread = float((gains.square().sum() / tried.alive.sum()).sqrt())
    return References(float(tried.rewards.sum(0).mean()), expert, spread)


def expert_return(world: World, problem: Tensor, keys: Tensor) -> float:
    """The mean return of the world's expert, who sees the state and knows the problem."""
    total, alive = torch.zeros_like(problem[..., 0]), torch.ones_like(problem[..., 0])
    with torch.no_grad():
        state = world.initial(fold(keys, 0), problem)
        for t in range(world.horizon):
            own = fold(fold(keys, 1), t)
            action = world.expert(state, problem)
            after = world.transition(state, action, fold(own, 0), problem)
            total += alive * world.reward(state, action, after, fold(own, 1), problem)
            alive = alive * ~world.terminal(after, problem)
            state = after
    return float(total.mean())
