"""The laws of worlds, as tests."""

import pytest
import torch
from torch import Tensor

from fewshot.functional import Params
from fewshot.randomness import fold
from fewshot.worlds.base import World
from fewshot.worlds.references import references_of
from fewshot.worlds.rollout import Before, Rollout, rollout
from fewshot.worlds.variants import random_action

_PROBLEMS, _TRAJECTORIES = 5, 3


def _keys(seed: int = 0) -> Tensor:
    """Keys (problems, trajectories)."""
    own = fold(torch.tensor(seed), torch.arange(_PROBLEMS))
    return fold(own[:, None], torch.arange(_TRAJECTORIES))


def _played(world: World, keys: Tensor, n: int = 1) -> Rollout:
    """n trajectories of random actions for each key (b, t), in the problem of the key's row."""

    def wanders(
        params: Params, memory: Tensor | None, seen: Tensor, before: Before, keys: Tensor
    ) -> tuple[Tensor, None]:
        return random_action(world.actions, keys), None

    problem = world.problem(fold(keys[:, 0], 1))[:, None].expand(-1, keys.shape[1], -1)
    return rollout(world, wanders, {}, None, problem, keys, n)


class WorldLaws:
    """The laws of `world`, a `World`, or a world that rolls out by itself."""

    @pytest.fixture
    def played(self, world: World) -> Rollout:
        return _played(world, _keys())

    def test_has_a_horizon_of_at_least_one_step_and_at_least_one_action(self, world: World) -> None:
        assert world.horizon >= 1
        assert world.actions.n >= (2 if world.actions.discrete else 1)

    def test_has_the_shapes_that_it_names(self, world: World, played: Rollout) -> None:
        shape = (world.horizon, _PROBLEMS, _TRAJECTORIES)
        assert played.observations.shape == (*shape, world.n_observation)
        assert played.rewards.shape == played.alive.shape == shape
        assert played.rewards.dtype == played.observations.dtype == torch.float32
        assert played.observations.isfinite().all()
        assert played.rewards.isfinite().all()

    def test_plays_the_same_for_the_same_keys_whatever_the_ambient_seed(
        self, world: World, played: Rollout
    ) -> None:
        torch.manual_seed(7)
        again = _played(world, _keys())
        assert all(torch.equal(a, b) for a, b in zip(played, again, strict=True))

    def test_plays_a_problem_alone_as_beside_others(self, world: World, played: Rollout) -> None:
        alone = _played(world, _keys()[1:2])
        assert torch.allclose(alone.rewards[:, 0], played.rewards[:, 1], atol=1e-5)
        assert torch.equal(alone.alive[:, 0], played.alive[:, 1])

    def test_differs_between_keys(self, world: World, played: Rollout) -> None:
        other = _played(world, _keys(seed=1))
        differ = [not torch.equal(a, b) for a, b in zip(played, other, strict=True)]
        assert any(differ)

    def test_never_rises_from_the_dead(self, world: World, played: Rollout) -> None:
        assert set(played.alive.unique().tolist()) <= {0.0, 1.0}
        assert (played.alive[0] == 1).all()
        assert (played.alive[1:] <= played.alive[:-1]).all()

    def test_gives_no_reward_to_the_dead(self, played: Rollout) -> None:
        assert (played.rewards[played.alive == 0] == 0).all()

    def test_starts_again_after_each_trajectory(self, world: World) -> None:
        both = _played(world, _keys(), n=2)
        assert len(both.rewards) == 2 * world.horizon
        assert (both.alive[world.horizon] == 1).all()

    def test_has_an_expert_that_beats_random_actions_and_returns_that_differ(
        self, world: World
    ) -> None:
        found = references_of(world)
        assert found.expert > found.random
        assert found.spread > 0

    def test_runs_in_lanes_as_alone(self, world: World) -> None:
        lanes = torch.stack([_keys(), _keys(seed=2)])
        found = torch.func.vmap(lambda keys: tuple(_played(world, keys)))(lanes)
        for i, keys in enumerate(lanes):
            alone = _played(world, keys)
            assert torch.allclose(found[2][i], alone.rewards, atol=1e-4)
            assert torch.equal(found[3][i], alone.alive)
