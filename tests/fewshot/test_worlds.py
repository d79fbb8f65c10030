"""The worlds, and the learners of worlds."""

import importlib.util

import pytest
import torch

from fewshot.conformance.worlds import WorldLaws
from fewshot.errors.inputs import InputError
from fewshot.learners.reinforcement.advantages import linear_baseline, standardised
from fewshot.learners.reinforcement.policy import log_probabilities, sample
from fewshot.randomness import fold, normal
from fewshot.worlds.base import Actions, World
from fewshot.worlds.references import references_of
from fewshot.worlds.rollout import Rollout, returns_to_go
from fewshot.worlds.worlds import world_of

has_gymnasium = importlib.util.find_spec("gymnasium") is not None
PENDULUM = {"env": "Pendulum-v1", "vary": {"g": [8, 12]}, "horizon": 10, "reference": -20}
CART = {"env": "CartPole-v1", "reference": 30, "horizon": 30}
ALL = [
    ("navigation", {}),
    ("navigation", {"actions": "rotated"}),
    ("bandit", {"arms": 3}),
    ("tabular", {}),
    ("pendulum", {"horizon": 60}),
    ("cartpole", {"horizon": 60}),
    ("cartpole", {"actions": "rotated", "horizon": 60}),
    *([("gymnasium", PENDULUM), ("gymnasium", CART)] if has_gymnasium else []),
]


@pytest.mark.parametrize(("name", "options"), ALL)
class TestEveryWorld(WorldLaws):
    @pytest.fixture
    def world(self, name: str, options: dict) -> World:
        return world_of(name, options)


def test_normal_numbers_have_mean_zero_and_deviation_one():
    drawn = normal(torch.arange(100), 400)
    assert drawn.mean().abs() < 0.02
    assert (drawn.std() - 1).abs() < 0.02


def test_a_shuffled_reward_says_nothing_about_the_action():
    world, keys = world_of("navigation", {"reward": "shuffled"}), torch.arange(500)
    problem = world.problem(keys)
    state = world.initial(keys, problem)
    far, near = problem + 9, problem
    rewards = [world.reward(state, state, there, fold(keys, 3), problem) for there in (far, near)]
    assert torch.equal(*rewards)


def test_a_variant_that_does_not_exist_is_refused():
    with pytest.raises(InputError, match=r"reward: must be shuffled"):
        world_of("bandit", {"reward": "hidden"})


def test_an_unknown_option_is_refused():
    with pytest.raises(InputError, match=r"arm: is not an option of bandit"):
        world_of("bandit", {"arm": 3})


def test_the_expert_of_a_bandit_earns_the_mean_of_the_highest_of_five():
    found = references_of(world_of("bandit", {}))
    assert found.expert == pytest.approx(5 / 6, abs=0.05)
    assert found.random == pytest.approx(1 / 2, abs=0.05)


@pytest.mark.skipif(not has_gymnasium, reason="needs gymnasium")
@pytest.mark.parametrize(
    ("name", "theirs", "options"),
    [
        ("pendulum", "Pendulum-v1", {"gravity": [10, 10], "mass": [1, 1], "length": [1, 1]}),
        (
            "cartpole",
            "CartPole-v1",
            {"gravity": [9.8, 9.8], "mass": [0.1, 0.1], "length": [0.5, 0.5], "force": [10, 10]},
        ),
    ],
)
def test_the_physics_are_those_of_gymnasium(name: str, theirs: str, options: dict):
    gymnasium = pytest.importorskip("gymnasium")
    world, made = world_of(name, options), gymnasium.make(theirs)
    seen, _ = made.reset(seed=0)
    key = torch.tensor(1)
    problem, state = world.problem(key), torch.tensor(made.unwrapped.state, dtype=torch.float32)
    for t in range(15):
        if world.actions.discrete:
            ours, own = torch.tensor(t % 2), t % 2
        else:
            ours = torch.tensor([0.5 * (-1) ** t])
            own = 2 * ours.numpy()
        assert torch.allclose(world.observation(state, problem), torch.tensor(seen), atol=1e-3)
        after = world.transition(state, ours, key, problem)
        seen, reward, _, _, _ = made.step(own)
        assert world.reward(state, ours, after, key, problem).item() == pytest.approx(
            float(reward), abs=1e-2
        )
        state = after


def test_returns_are_discounted_sums_of_later_rewards():
    rewards = torch.tensor([[1.0], [2.0], [4.0]])
    assert returns_to_go(rewards, 0.5).flatten().tolist() == [3.0, 4.0, 4.0]


def test_the_baseline_explains_returns_that_are_linear_in_time():
    h, b, n = 20, 2, 4
    returns = (torch.arange(h) * 0.3 + 1)[:, None, None].expand(h, b, n)
    found = Rollout(torch.zeros(h, b, n, 1), torch.zeros(h, b, n, 1), returns, torch.ones(h, b, n))
    assert torch.allclose(linear_baseline(found, returns), returns, atol=1e-2)


def test_standardised_advantages_ignore_dead_steps():
    alive = torch.ones(4, 1, 2)
    alive[2:, 0, 1] = 0
    found = standardised(torch.randn(4, 1, 2, generator=torch.Generator().manual_seed(0)), alive)
    living = found[alive == 1]
    assert living.mean().abs() < 1e-6
    assert (found[alive == 0] == 0).all()


def test_choices_are_drawn_with_their_probabilities():
    actions, keys = Actions(3, discrete=True), fold(torch.tensor(0), torch.arange(4000))
    logits = torch.tensor([0.0, 1.0, -1.0]).expand(4000, 3)
    drawn = sample(actions, {}, logits, keys)
    shares = torch.bincount(drawn, minlength=3) / 4000
    assert torch.allclose(shares, logits[0].softmax(0), atol=0.03)
    chances = log_probabilities(actions, {}, logits, drawn).exp()
    assert torch.allclose(chances, logits.softmax(-1)[torch.arange(4000), drawn])


@pytest.mark.skipif(not has_gymnasium, reason="needs gymnasium")
def test_an_argument_that_an_environment_does_not_take_is_told_with_those_that_it_takes():
    with pytest.raises(InputError) as caught:
        world_of("gymnasium", CART | {"vary": {"length": [0.3, 1.0]}})
    (detail,) = caught.value.details
    assert "unexpected keyword argument 'length'" in detail.rule
    assert "CartPoleEnv takes sutton_barto_reward" in detail.remedy


@pytest.mark.skipif(not has_gymnasium, reason="needs gymnasium")
def test_the_observations_of_a_rollout_are_those_before_the_actions():
    world, keys, seen = world_of("gymnasium", CART), torch.arange(3), []

    def act(params, memory, observed, before, keys):
        seen.append(observed.clone())
        return torch.zeros(3, dtype=torch.int64), None

    found = world.roll_out(act, {}, None, world.problem(keys), keys, 2)
    assert torch.equal(found.observations, torch.stack(seen))
    assert found.observations[[0, world.horizon]].abs().max() <= 0.05  # where a cart starts
