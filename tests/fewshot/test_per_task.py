"""Heads and rates of each training task's own."""

import math

import pytest
import torch
from torch.func import grad, vmap
from torch.testing import assert_close

from fewshot.episodes import Episode
from fewshot.errors.inputs import InputError
from fewshot.kinds import REGRESSION
from fewshot.learners.base import CustomLoss
from fewshot.learners.per_task import PerTask
from tests.fewshot import test_regression
from tests.fewshot.test_regression import fresh, problems, regressor

T, E = 3, 2  # training tasks, episodes of each
HYPER = {**test_regression.HYPER, "task/own": torch.tensor(1.0, dtype=torch.float64)}
STRATEGIES = [
    *((name, {"heads": "per_task"}) for name in ("maml", "fomaml", "anil", "meta_sgd", "reptile")),
    ("meta_sgd", {"rates": "per_task"}),
    ("meta_sgd", {"rates": "per_task", "heads": "per_task"}),
]


def made(name, options, own_tasks=slice(0, T), peers=slice(0, T)):
    """A learner with parameters of each task's own, and those of the tasks moved apart."""
    inner = regressor(name, **options)
    learner = PerTask(inner, inner.per_task, n_tasks=T, own_tasks=own_tasks, peers=peers)
    params = fresh(learner)
    for own in inner.per_task:
        ahead = torch.arange(T, dtype=torch.float64).view(-1, *[1] * (params[own].dim() - 1))
        params[own] = params[own] + 0.3 * ahead
    return inner, learner, params


def of_task(inner, params, t):
    return {name: value[t] if name in inner.per_task else value for name, value in params.items()}


def episodes_of(task, episodes):
    return Episode(*(part[task * E : (task + 1) * E] for part in episodes))


@pytest.mark.parametrize(("name", "options"), STRATEGIES)
class TestEveryStrategy:
    def test_all_tasks_begin_alike(self, name, options):
        inner = regressor(name, **options)
        learner = PerTask(
            inner, inner.per_task, n_tasks=T, own_tasks=slice(0, T), peers=slice(0, T)
        )
        alone, params = fresh(inner), fresh(learner)
        assert params.keys() == alone.keys()
        assert inner.per_task
        for t in range(T):
            assert all(torch.equal(v, alone[k]) for k, v in of_task(inner, params, t).items())
        episodes = problems(b=T * E)
        for stage in ("logits", "meta_logits"):
            ours, theirs = getattr(learner, stage), getattr(inner, stage)
            assert_close(ours(params, episodes, HYPER), theirs(alone, episodes, HYPER))

    def test_each_task_learns_from_its_own(self, name, options):
        inner, learner, params = made(name, options)
        episodes = problems(b=T * E)
        found = learner.meta_logits(params, episodes, HYPER)
        for t in range(T):
            own, mine = of_task(inner, params, t), episodes_of(t, episodes)
            assert_close(found[t * E : (t + 1) * E], inner.meta_logits(own, mine, HYPER))

    def test_a_new_task_begins_at_their_mean(self, name, options):
        inner, learner, params = made(name, options)
        assert_close(
            learner.logits(params, problems(), HYPER),
            inner.logits(of_task(inner, params, 1), problems(), HYPER),
        )

    def test_a_tasks_loss_moves_what_is_its_own_and_what_is_shared(self, name, options):
        inner, learner, params = made(name, options)
        episodes = problems(b=T * E)

        def loss(params):
            if isinstance(learner, CustomLoss):
                return learner.meta_losses(params, episodes, HYPER)[E : 2 * E].sum()
            predicted = learner.meta_logits(params, episodes, HYPER)
            return REGRESSION.losses(predicted, episodes.query_y)[E : 2 * E].sum()

        slope = grad(loss)(params)
        for own, value in slope.items():
            if own in inner.per_task:
                assert (value[[0, 2]] == 0).all()
                assert (value[1] != 0).any()
            elif not own.startswith("rate."):
                assert (value != 0).any()

    def test_with_nothing_of_their_own_all_begin_at_the_mean(self, name, options):
        inner, learner, params = made(name, options)
        shared, episodes = {**HYPER, "task/own": torch.tensor(0.0)}, problems(b=T * E)
        found = learner.meta_logits(params, episodes, shared)
        assert_close(found, inner.meta_logits(of_task(inner, params, 1), episodes, HYPER))
        halfway = {**HYPER, "task/own": torch.tensor(0.5)}
        for own in inner.per_task:
            params[own] = params[own].mean(0) + 2 * (params[own] - params[own].mean(0))
        found = learner.meta_logits(params, episodes, halfway)
        assert_close(found, learner.meta_logits(made(name, options)[2], episodes, HYPER))

    def test_mapped_over_lanes_is_a_loop_over_lanes(self, name, options):
        _, learner, _ = made(name, options)
        lanes = [fresh(learner, seed) for seed in range(3)]
        stacked = {k: torch.stack([lane[k] for lane in lanes]) for k in lanes[0]}
        episodes = problems(b=T * E)
        for ask in (learner.logits, learner.meta_logits):
            mapped = vmap(ask, in_dims=(0, None, None))(stacked, episodes, HYPER)
            assert_close(mapped, torch.stack([ask(lane, episodes, HYPER) for lane in lanes]))

    def test_an_adapted_model_starts_at_the_mean_of_all_tasks(self, name, options):
        _, learner, params = made(name, options)
        episodes = problems(b=2)
        for i, answers in enumerate(learner.logits(params, episodes, HYPER)):
            x, y, queries, _ = (part[i] for part in episodes)
            assert_close(learner.predict(learner.fit(params, x, y, HYPER), queries), answers)


def test_of_two_kinds_each_has_its_own_tasks_and_peers():
    """The second and third of three tasks are of this kind."""
    inner, learner, params = made(
        "maml", {"heads": "per_task"}, own_tasks=slice(1, 3), peers=slice(1, 3)
    )
    episodes = problems(b=2 * E)
    found = learner.meta_logits(params, episodes, HYPER)
    for i, t in enumerate((1, 2)):
        own, mine = of_task(inner, params, t), episodes_of(i, episodes)
        assert_close(found[i * E : (i + 1) * E], inner.meta_logits(own, mine, HYPER))
    middle = {
        name: value[1:].mean(0) if name in inner.per_task else value
        for name, value in params.items()
    }
    assert_close(learner.logits(params, problems(), HYPER), inner.logits(middle, problems(), HYPER))


def test_a_factor_multiplies_all_rates():
    inner, _, params = made("meta_sgd", {"rates": "per_task"})
    own = of_task(inner, params, 2)
    twice = {name: value for name, value in own.items() if name != "log_factor"}
    faster = {**HYPER, "lr/inner": HYPER["lr/inner"] * math.exp(0.6)}
    assert_close(
        inner.logits(own, problems(), HYPER),
        regressor("meta_sgd").logits(twice, problems(), faster),
    )


@pytest.mark.parametrize(
    ("name", "option"), [("maml", "heads"), ("reptile", "heads"), ("meta_sgd", "rates")]
)
def test_a_strategy_is_shared_or_per_task(name, option):
    with pytest.raises(InputError, match=f"learner.{option}: must be shared or per_task"):
        regressor(name, **{option: "per-task"})
    assert regressor(name).per_task == ()
