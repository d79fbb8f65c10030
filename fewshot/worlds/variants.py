"""Worlds that teach the wrong thing: what a search should give no weight."""

from typing import Any

from torch import Tensor

from fewshot.errors.inputs import ErrorDetail, InputError, input_error
from fewshot.randomness import fold, uniform
from fewshot.worlds.base import Actions, World
from fewshot.worlds.rollout import RollsOut


class _Wrapped:
    """A world with the functions of another one."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.horizon, self.n_observation = world.horizon, world.n_observation
        self.actions = world.actions

    def __getattr__(self, name: str) -> Any:
        if name == "_world":  # not yet set, while a copy is made
            raise AttributeError(name)
        return getattr(self._world, name)


class ShuffledReward(_Wrapped):
    """Each reward is that of a random action at the start of another problem of the world.

    So it says nothing about the action that was taken.
    """

    def reward(
        self, state: Tensor, action: Tensor, next_state: Tensor, key: Tensor, problem: Tensor
    ) -> Tensor:
        del state, next_state, problem
        own, world = (fold(key, stream) for stream in range(5)), self._world
        other, start, choice, move, chance = own
        elsewhere = world.problem(other)
        first = world.initial(start, elsewhere)
        taken = random_action(world.actions, choice)
        after = world.transition(first, taken, move, elsewhere)
        return world.reward(first, taken, after, chance, elsewhere)


class RotatedActions(_Wrapped):
    """Actions mean something else: numbers are negated, and choice i becomes choice i + 1."""

    def _turned(self, action: Tensor) -> Tensor:
        return (action + 1) % self.actions.n if self.actions.discrete else -action

    def transition(self, state: Tensor, action: Tensor, key: Tensor, problem: Tensor) -> Tensor:
        return self._world.transition(state, self._turned(action), key, problem)

    def reward(
        self, state: Tensor, action: Tensor, next_state: Tensor, key: Tensor, problem: Tensor
    ) -> Tensor:
        return self._world.reward(state, self._turned(action), next_state, key, problem)

    def expert(self, state: Tensor, problem: Tensor) -> Tensor:
        action = self._world.expert(state, problem)
        return (action - 1) % self.actions.n if self.actions.discrete else -action


def random_action(actions: Actions, keys: Tensor) -> Tensor:
    """A uniformly random action for each key (...)."""
    if actions.discrete:
        return (uniform(keys, 1)[..., 0] * actions.n).long().clamp(max=actions.n - 1)
    return 2 * uniform(keys, actions.n) - 1


def varied(world: World, reward: str | None = None, actions: str | None = None) -> World:
    """The world, with `reward="shuffled"` or `actions="rotated"` or both.

    Raises InputError for other values.
    """
    known = {"reward": (reward, "shuffled"), "actions": (actions, "rotated")}
    details = [
        ErrorDetail(name, f"must be {only}.", value, "Or leave it out.")
        for name, (value, only) in known.items()
        if value not in (None, only)
    ]
    if details:
        raise InputError(details)
    if (reward or actions) and isinstance(world, RollsOut):
        rule = "can't be changed for an environment of gymnasium."
        raise input_error("reward" if reward else "actions", rule, reward or actions)
    found: Any = world
    if actions is not None:
        found = RotatedActions(found)
    if reward is not None:
        found = ShuffledReward(found)
    made: World = found
    return made
