"""Scaling by the support: what it is, that queries have no part in it, and nasty supports."""

import pytest
import torch
from torch.func import grad, vmap
from torch.testing import assert_close

from fewshot.conformance.problems import classes
from fewshot.episodes import Episode
from fewshot.kinds import REGRESSION
from fewshot.learners.base import CustomLoss
from fewshot.learners.learners import REGRESSORS
from fewshot.learners.metric.protonet import ProtoNet
from fewshot.learners.scaled import Scaled, scale_of
from fewshot.models.untrained import Untrained
from tests.fewshot.test_regression import HYPER, fresh, problems, query_loss, regressor


def in_units(episodes, units=(0.01, 100.0, 1e4), unit=50.0):
    """The same problems with features and numbers far from 0 and 1."""
    units = torch.tensor(units, dtype=torch.float64)
    x, y = (lambda part: part * units + 300), (lambda part: part * unit - 70)
    return Episode(
        x(episodes.support_x), y(episodes.support_y), x(episodes.query_x), y(episodes.query_y)
    )


class Spy:
    """Keeps what it is shown, and answers 2 to everything."""

    hyperparameters, model_scores_classes = (), False

    def init(self, generator):
        return {}

    def logits(self, params, episodes, hyper):
        self.shown = episodes
        return torch.full_like(episodes.query_y, 2.0)

    meta_logits = logits


def shown(episodes, *, features=True, targets=True):
    """The episodes as the learner sees them, and its answers."""
    spy = Spy()
    answers = Scaled(spy, features=features, targets=targets).logits({}, episodes, {})
    return spy.shown, answers


def test_every_support_has_mean_zero_and_deviation_one():
    seen, _ = shown(in_units(problems()))
    for part in (seen.support_x, seen.support_y):
        assert_close(part.mean(1), torch.zeros_like(part[:, 0]), atol=1e-9, rtol=0)
        assert_close(part.std(1, correction=0), torch.ones_like(part[:, 0]))


def test_queries_have_no_part_in_the_scale():
    """Whatever the queries are, the support and every other query look the same."""
    episodes = in_units(problems())
    x, y = episodes.query_x.clone(), episodes.query_y.clone()
    x[:, 1:], y[:] = 1e6, -1e6
    (before, answers), (after, others) = (
        shown(episodes),
        shown(episodes._replace(query_x=x, query_y=y)),
    )
    assert torch.equal(before.support_x, after.support_x)
    assert torch.equal(before.support_y, after.support_y)
    assert torch.equal(before.query_x[:, 0], after.query_x[:, 0])
    assert torch.equal(answers, others)


def test_the_support_decides_how_the_queries_look():
    episodes = in_units(problems())
    x, y = episodes.support_x.clone(), episodes.support_y.clone()
    x[:, 0], y[:, 0] = x[:, 0] + 1e5, y[:, 0] + 1e5
    (before, answers), (after, others) = (
        shown(episodes),
        shown(episodes._replace(support_x=x, support_y=y)),
    )
    assert (before.query_x != after.query_x).all()
    assert (answers != others).all()


def test_answers_are_in_units_of_the_numbers():
    episodes = in_units(problems())
    _, answers = shown(episodes)
    y = episodes.support_y
    expected = y.mean(1, keepdim=True) + 2 * y.std(1, correction=0, keepdim=True)
    assert_close(answers, expected.expand_as(answers))


@pytest.mark.parametrize("name", sorted(REGRESSORS))
@pytest.mark.parametrize("stage", ["logits", "meta_logits"])
def test_units_do_not_matter(name, stage):
    learner = Scaled(regressor(name), features=True, targets=True)
    ask, params = getattr(learner, stage), fresh(learner)
    plain, other = ask(params, problems(), HYPER), ask(params, in_units(problems()), HYPER)
    assert_close(other, 50 * plain - 70)


def test_without_anything_to_scale_nothing_is_changed():
    episodes = problems()
    seen, answers = shown(episodes, features=False, targets=False)
    assert seen is episodes
    assert (answers == 2).all()


# ---- nasty supports ---------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, 0.1, -3e7])
def test_what_the_support_has_constant_is_zero(value):
    """0.1 is not its own mean in float32: what rounding leaves is no spread."""
    episodes = Episode(*(part.float() for part in problems(n=7)))
    episodes.support_x[..., 1] = value
    seen, _ = shown(episodes)
    assert (seen.support_x[..., 1] == 0).all()
    assert (seen.query_x[..., 1] == 0).all()
    assert_close(seen.support_x[..., 0].std(1, correction=0), torch.ones(4))


@pytest.mark.parametrize("name", sorted(REGRESSORS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", ["one example", "all alike", "huge", "huge and alike"])
def test_nasty_supports_have_finite_answers_and_gradients(name, dtype, case):
    episodes = problems(n=1 if case == "one example" else 6)
    if "alike" in case:
        episodes = Episode(*(torch.ones_like(part) for part in episodes))
    unit = 1e15 if "huge" in case else 1.0
    episodes = Episode(*((part * unit).to(dtype) for part in episodes))
    learner = Scaled(regressor(name), features=True, targets=True)
    params = {k: v.to(dtype) for k, v in fresh(learner).items()}
    hyper = {k: v.to(dtype) for k, v in HYPER.items()}
    answers = learner.logits(params, episodes, hyper)
    assert answers.isfinite().all()
    if case != "huge":
        assert_close(answers, episodes.support_y[:, :1].expand_as(answers))
    slope = grad(
        lambda p: REGRESSION.losses(
            learner.meta_logits(p, episodes, hyper), episodes.query_y
        ).mean()
    )(params)
    assert all(part.isfinite().all() for part in slope.values())


def test_padding_counts_for_nothing():
    episodes = classes()
    n = episodes.support_y.shape[1]
    junk = torch.full_like(episodes.support_x[:, :2], 1e9)
    padded = episodes._replace(
        support_x=torch.cat([episodes.support_x, junk], 1),
        support_y=torch.cat([episodes.support_y, torch.full((4, 2), -1)], 1),
    )
    (plain, _), (seen, _) = (shown(each, targets=False) for each in (episodes, padded))
    assert_close(seen.support_x[:, :n], plain.support_x)
    assert_close(seen.query_x, plain.query_x)


def test_a_scale_has_the_spread_of_its_support_in_any_unit():
    x = torch.tensor([[[1.0], [3.0], [3.0], [5.0]]])
    for unit in (1e-15, 1.0, 1e30):
        scale = scale_of(unit * x, torch.ones(1, 4))
        assert_close(scale.spread / unit, torch.full((1, 1, 1), 2**0.5))
        assert_close(scale.back(scale.to(unit * x)), unit * x)


# ---- around learners --------------------------------------------------------------------------


def test_classes_do_not_hang_on_the_units_of_their_features():
    episodes = classes()
    learner = Scaled(ProtoNet(model=Untrained(), way=3), features=True, targets=False)
    units = torch.logspace(-3, 3, 6, dtype=torch.float64)
    other = episodes._replace(
        support_x=episodes.support_x * units - 5, query_x=episodes.query_x * units - 5
    )
    assert_close(learner.logits({}, other, {}), learner.logits({}, episodes, {}))


def test_only_a_learner_with_a_loss_of_its_own_has_one():
    assert isinstance(Scaled(regressor("reptile"), features=True, targets=True), CustomLoss)
    assert not isinstance(Scaled(regressor("maml"), features=True, targets=True), CustomLoss)


def test_a_loss_of_ones_own_is_in_units_of_the_numbers():
    learner = Scaled(regressor("reptile"), features=True, targets=True)
    params = fresh(learner)
    losses = [
        learner.meta_losses(params, each, HYPER) for each in (problems(), in_units(problems()))
    ]
    assert_close(losses[1], 50**2 * losses[0])


def test_gradients_go_through_the_scale():
    learner = Scaled(regressor("maml"), features=True, targets=True)
    params, loss = fresh(learner), query_loss(learner, in_units(problems()))
    slope = grad(loss)(params)
    way = {
        k: torch.randn(v.shape, dtype=v.dtype, generator=torch.Generator().manual_seed(1))
        for k, v in params.items()
    }
    ahead, behind = (loss({k: v + e * way[k] for k, v in params.items()}) for e in (1e-6, -1e-6))
    expected = sum((slope[k] * way[k]).sum() for k in params)
    assert_close((ahead - behind) / 2e-6, expected, rtol=1e-5, atol=1e-5)


def test_mapped_over_lanes_is_a_loop_over_lanes():
    learner = Scaled(regressor("ridge"), features=True, targets=True)
    lanes = [fresh(learner, seed) for seed in range(3)]
    stacked = {k: torch.stack([lane[k] for lane in lanes]) for k in lanes[0]}
    mapped = vmap(learner.logits, in_dims=(0, None, None))(stacked, problems(), HYPER)
    assert_close(mapped, torch.stack([learner.logits(lane, problems(), HYPER) for lane in lanes]))


@pytest.mark.parametrize("name", sorted(REGRESSORS))
def test_an_adapted_model_keeps_the_scales_of_its_support(name):
    learner = Scaled(regressor(name), features=True, targets=True)
    params, episodes = fresh(learner), in_units(problems(b=2))
    for i, answers in enumerate(learner.logits(params, episodes, HYPER)):
        x, y, queries, _ = (part[i] for part in episodes)
        assert_close(learner.predict(learner.fit(params, x, y, HYPER), queries), answers)
