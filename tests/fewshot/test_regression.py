"""The learners of functions: gradients against closed forms, and what they may not look at."""

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck
from torch.func import grad
from torch.testing import assert_close

from fewshot.episodes import Episode
from fewshot.kinds import REGRESSION
from fewshot.learners.gradient.inner import InnerLoop
from fewshot.learners.gradient.maml import MAML
from fewshot.learners.gradient.meta_sgd import MetaSGD
from fewshot.learners.gradient.reptile import Reptile
from fewshot.learners.learners import LEARNERS
from fewshot.models.mlp import MLP
from fewshot.models.untrained import Untrained
from tests.rounding import rounding

D = 3
HYPER = {
    "lr/outer": torch.tensor(0.01, dtype=torch.float64),
    "lr/inner": torch.tensor(0.1, dtype=torch.float64),
    "lr/adapt": torch.tensor(0.05, dtype=torch.float64),
}


class Linear:
    """x . theta: its mean squared error is a quadratic, whose Hessian 2 X^T X / n is known."""

    n_out = 1
    head = ("theta",)

    def init(self, generator):
        return {"theta": torch.randn(D, 1, generator=generator)}

    def apply(self, params, x):
        return x @ params["theta"]


def problems(b=4, n=6, seed=0):
    """b problems y = x . w + noise, in float64."""
    rng = torch.Generator().manual_seed(seed)
    w = torch.randn(b, D, 1, generator=rng, dtype=torch.float64)

    def draw():
        x = torch.randn(b, n, D, generator=rng, dtype=torch.float64)
        return x, x @ w + 0.1 * torch.randn(b, n, 1, generator=rng, dtype=torch.float64)

    return Episode(*draw(), *draw())


def fresh(learner, seed=0):
    made = learner.init(torch.Generator().manual_seed(seed))
    return {name: value.double() for name, value in made.items()}


def regressor(name, model=None, **options):
    model = model or MLP(features=(D,), hidden=(5,), n_out=1)
    return LEARNERS[name](model=model, way=1, kind=REGRESSION, **options)


def query_loss(learner, episodes):
    def loss(params):
        predicted = learner.meta_logits(params, episodes, HYPER)
        return REGRESSION.losses(predicted, episodes.query_y).mean()

    return loss


def slope_and_hessian(x, y, theta):
    return 2 * x.T @ (x @ theta - y) / len(x), 2 * x.T @ x / len(x)


class TestOnAQuadratic:
    """The model is linear: every gradient can be written down."""

    @pytest.fixture
    def theta(self):
        return torch.tensor([[0.5], [-1.0], [2.0]], dtype=torch.float64)

    @pytest.fixture
    def episode(self):
        return problems(b=1)

    @pytest.mark.parametrize("steps", [1, 4])
    @pytest.mark.parametrize("first_order", [False, True])
    def test_mamls_meta_gradient_has_the_closed_form(self, episode, theta, steps, first_order):
        taught = MAML(
            model=Linear(), way=1, kind=REGRESSION, inner_steps=steps, first_order=first_order
        )
        found = grad(query_loss(taught, episode))({"theta": theta})["theta"]
        rate, point = HYPER["lr/inner"], theta
        x, y, query_x, query_y = (part[0] for part in episode)
        for _ in range(steps):
            slope, hessian = slope_and_hessian(x, y, point)
            point = point - rate * slope
        expected, _ = slope_and_hessian(query_x, query_y, point)
        if not first_order:
            chain = torch.eye(D, dtype=torch.float64) - rate * hessian
            expected = torch.linalg.matrix_power(chain, steps) @ expected
        assert_close(found, expected)

    def test_meta_sgd_begins_as_maml(self, theta):
        mine = MetaSGD(model=Linear(), way=1, kind=REGRESSION, inner_steps=2)
        maml = MAML(model=Linear(), way=1, kind=REGRESSION, inner_steps=2)
        params = fresh(mine) | {"theta": theta}
        found, expected = (
            grad(query_loss(mine, problems()))(params),
            grad(query_loss(maml, problems()))({"theta": theta}),
        )
        assert_close(found["theta"], expected["theta"])

    def test_meta_sgds_rates_have_the_closed_form(self, episode, theta):
        taught = MetaSGD(model=Linear(), way=1, kind=REGRESSION)
        distance = torch.tensor([[0.0], [0.2], [-0.3]], dtype=torch.float64)
        params = {"theta": theta, "rate.theta": distance}
        found = grad(query_loss(taught, episode))(params)
        x, y, query_x, query_y = (part[0] for part in episode)
        slope, hessian = slope_and_hessian(x, y, theta)
        rates = HYPER["lr/inner"] + distance
        outer, _ = slope_and_hessian(query_x, query_y, theta - rates * slope)
        assert_close(found["rate.theta"], -slope * outer)
        assert_close(found["theta"], outer - hessian @ (rates * outer))

    def test_meta_sgd_adapts_at_the_rates_that_it_learned(self, episode, theta):
        taught = MetaSGD(model=Linear(), way=1, kind=REGRESSION)
        params = {"theta": theta, "rate.theta": torch.full_like(theta, -0.1)}
        assert_close(taught.logits(params, episode, HYPER), episode.query_x @ theta)

    @pytest.mark.parametrize("steps", [2, 5])
    def test_reptile_moves_towards_where_training_leads(self, theta, steps):
        """The weighted sum of theta - phi_i, phi_i by turns on support and queries."""
        taught = Reptile(model=Linear(), way=1, kind=REGRESSION, inner_steps=steps)
        episodes, weights = problems(), torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)

        def loss(params):
            return (weights * taught.meta_losses(params, episodes, HYPER)).sum()

        found = grad(loss)({"theta": theta})["theta"]
        expected = torch.zeros_like(theta)
        for i, weight in enumerate(weights):
            x, y, query_x, query_y = (part[i] for part in episodes)
            phi = theta
            for step in range(steps):
                half = (query_x, query_y) if step % 2 else (x, y)
                phi = phi - HYPER["lr/inner"] * slope_and_hessian(*half, phi)[0]
            expected += weight * (theta - phi)
        assert_close(found, expected)

    def test_reptile_of_two_steps_is_joint_training_and_first_order_maml(self, episode, theta):
        params = {"theta": theta}
        reptile = Reptile(model=Linear(), way=1, kind=REGRESSION, inner_steps=2)
        fomaml = regressor("fomaml", Linear())
        found = grad(lambda p: reptile.meta_losses(p, episode, HYPER).sum())(params)["theta"]
        joint, _ = slope_and_hessian(episode.support_x[0], episode.support_y[0], theta)
        first_order = grad(query_loss(fomaml, episode))(params)["theta"]
        assert_close(found, HYPER["lr/inner"] * (joint + first_order))


TINY = 1e-12  # that `ridge` adds to the penalty, for examples that are all zero


class TestRidge:
    def test_is_the_penalised_least_squares_of_linear_algebra(self):
        """Of [f(x), 1], whose last weight is not penalised."""
        taught, episodes = regressor("ridge", penalty=0.3), problems()
        params = fresh(taught)
        given = params["head.log_penalty_of_numbers"].exp().item()
        model = MLP(features=(D,), hidden=(5,), n_out=1)
        found = taught.logits(params, episodes, HYPER)
        for i, (x, y, query_x, _) in enumerate(zip(*episodes, strict=True)):
            features, queries = (model.apply(params, part).numpy() for part in (x, query_x))
            strength = given * np.square(features - features.mean(0)).sum(1).mean() + TINY
            design = np.hstack([features, np.ones((len(features), 1))])
            penalty = np.diag([strength] * features.shape[1] + [0.0])
            gram = design.T @ design + penalty
            weights = np.linalg.solve(gram, design.T @ y.numpy())
            expected = np.hstack([queries, np.ones((len(queries), 1))]) @ weights
            size = (abs(queries) @ abs(weights[:-1]) + abs(weights[-1])).max()
            within = rounding(design.size, condition=np.linalg.cond(gram)) * size
            np.testing.assert_allclose(found[i].numpy(), expected, rtol=0, atol=within)

    @pytest.mark.parametrize("n", [2, 3, 9])
    def test_is_the_same_whichever_system_is_the_smaller(self, n):
        """Three dimensions, and fewer examples or more."""
        taught, episodes = regressor("ridge", Untrained(), penalty=0.3), problems(n=n)
        params = fresh(taught)
        given = params["head.log_penalty_of_numbers"].exp().item()
        found = taught.logits(params, episodes, HYPER)
        for i, (x, y, query_x, _) in enumerate(zip(*episodes, strict=True)):
            away, mean = (x - x.mean(0)).numpy(), y.mean(0).numpy()
            strength = given * np.square(away).sum(1).mean() + TINY
            gram = away.T @ away + strength * np.eye(D)
            weights = np.linalg.solve(gram, away.T @ (y.numpy() - mean))
            expected = mean + (query_x - x.mean(0)).numpy() @ weights
            size = (abs(query_x - x.mean(0)).numpy() @ abs(weights) + abs(mean)).max()
            within = rounding(away.size, condition=np.linalg.cond(gram)) * size
            np.testing.assert_allclose(found[i].numpy(), expected, rtol=0, atol=within)

    def test_without_a_penalty_to_speak_of_fits_a_linear_function(self):
        episodes = problems(b=3, n=30)
        taught = regressor("ridge", Untrained(), penalty=1e-9)
        errors = REGRESSION.losses(taught.logits(fresh(taught), episodes, HYPER), episodes.query_y)
        assert errors.mean() < 0.02, "the noise has a variance of 0.01"

    def test_with_nothing_but_a_penalty_is_the_mean(self):
        episodes = problems()
        taught = regressor("ridge", Untrained(), penalty=1e12)
        found = taught.logits(fresh(taught), episodes, HYPER)
        expected = episodes.support_y.mean(1, keepdim=True).expand_as(found)
        assert_close(found, expected, rtol=0, atol=1e-9)

    def test_its_gradients_are_those_of_finite_differences(self):
        taught, episodes = regressor("ridge"), problems(b=1)
        start = fresh(taught, 1)

        def predicted(support_y, *values):
            params = dict(zip(start, values, strict=True))
            return taught.logits(params, episodes._replace(support_y=support_y), HYPER)

        inputs = (episodes.support_y, *start.values())
        assert gradcheck(predicted, [part.clone().requires_grad_() for part in inputs])

    def test_has_no_parameters_of_classes(self):
        assert "head.log_penalty_of_numbers" in fresh(regressor("ridge"))
        assert "head.log_scale" not in fresh(regressor("ridge"))


class TestANIL:
    def test_moves_the_last_layer_alone(self):
        model = MLP(features=(D,), hidden=(5, 4), n_out=1)
        episode = Episode(*(part[0] for part in problems(b=1)))
        params = {k: v.double() for k, v in model.init(torch.Generator().manual_seed(0)).items()}
        rates = dict.fromkeys(model.head, torch.tensor(0.1))
        batches = [(episode.support_x, episode.support_y)] * 3
        fitted = InnerLoop(model, REGRESSION).fit(params, batches, rates)
        moved = {name for name in params if not torch.equal(params[name], fitted[name])}
        assert moved == {"weight2", "bias2"}

    def test_yet_learns_the_body(self):
        taught = regressor("anil")
        slope = grad(query_loss(taught, problems()))(fresh(taught))
        assert all(value.abs().sum() > 0 for value in slope.values())

    def test_of_a_single_layer_is_maml(self):
        params, episodes = {"theta": torch.ones(D, 1, dtype=torch.float64)}, problems()
        anil, maml = (regressor(name, Linear()) for name in ("anil", "maml"))
        assert_close(anil.logits(params, episodes, HYPER), maml.logits(params, episodes, HYPER))


def test_first_order_keeps_no_graph_of_what_rests():
    """Else the body would have a gradient by way of the head's inner step."""
    taught = regressor("anil", first_order=True)
    params, episodes = fresh(taught), problems()
    found = grad(query_loss(taught, episodes))(params)
    step = HYPER["lr/inner"]

    def loss(own):
        model = MLP(features=(D,), hidden=(5,), n_out=1)
        total = 0.0
        for x, y, query_x, query_y in zip(*episodes, strict=True):
            slope = grad(lambda p, x=x, y=y: (model.apply(p, x) - y).square().mean())(params)
            moved = {k: own[k] - step * slope[k].detach() for k in model.head}
            total = total + (model.apply(own | moved, query_x) - query_y).square().mean()
        return total / len(episodes.query_y)

    expected = grad(loss)(params)
    for name in params:
        assert_close(found[name], expected[name])
