"""Learners: symmetries, gradients against closed forms, and what they may not look at."""

import pytest
import torch
from torch.func import grad, vmap
from torch.nn.functional import cross_entropy, one_hot
from torch.testing import assert_close

from fewshot.episodes import Episode
from fewshot.learners.learners import HYPERPARAMETERS, LEARNERS
from fewshot.learners.maml import MAML
from fewshot.learners.protonet import ProtoNet
from fewshot.learners.teacher import fit_logistic
from fewshot.models.mlp import MLP

WAY, SHOT, QUERY, WIDTH = 3, 2, 4, 6
HYPER = {
    "lr/outer": torch.tensor(0.01, dtype=torch.float64),
    "lr/inner": torch.tensor(0.4, dtype=torch.float64),
    "lr/adapt": torch.tensor(0.3, dtype=torch.float64),
}


def learner(name, *, hidden=(8,), **options):
    n_out = WAY if LEARNERS[name].model_scores_classes else 5
    model = MLP(features=(WIDTH,), hidden=hidden, n_out=n_out)
    return LEARNERS[name](model=model, way=WAY, **options)


def fresh(learner, seed=0):
    made = learner.init(torch.Generator().manual_seed(seed))
    return {name: value.double() for name, value in made.items()}


def episodes(b=4, seed=0, spread=1.0, noise=1.0):
    """b problems in float64, whose classes are Gaussians."""
    rng = torch.Generator().manual_seed(seed)
    means = torch.randn(b, WAY, WIDTH, generator=rng, dtype=torch.float64) * spread

    def draw(n):
        y = torch.arange(WAY).repeat_interleave(n).expand(b, -1)
        x = torch.randn(b, WAY * n, WIDTH, generator=rng, dtype=torch.float64) * noise
        return means.repeat_interleave(n, 1) + x, y

    return Episode(*draw(SHOT), *draw(QUERY))


def test_what_learners_say_of_themselves_is_known_without_building_them():
    assert {name: made.hyperparameters for name, made in LEARNERS.items()} == HYPERPARAMETERS


def query_loss(learner, problems, hyper):
    def loss(params):
        logits = learner.meta_logits(params, problems, hyper)
        return cross_entropy(logits.flatten(0, 1), problems.query_y.flatten())

    return loss


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("stage", ["logits", "meta_logits"])
class TestEveryLearner:
    @pytest.fixture
    def predict(self, name, stage):
        return getattr(learner(name), stage)

    @pytest.fixture
    def params(self, name):
        return fresh(learner(name))

    def test_scores_every_class_for_every_query(self, predict, params):
        assert predict(params, episodes(), HYPER).shape == (4, WAY * QUERY, WAY)

    def test_says_what_hyperparameters_it_reads(self, predict, params, name):
        read = set()

        class Watched(dict):
            def __getitem__(self, key):
                read.add(key)
                return super().__getitem__(key)

        predict(params, episodes(), Watched(HYPER))
        assert read <= set(HYPERPARAMETERS[name])

    def test_does_not_see_the_order_of_the_support(self, predict, params):
        problems = episodes()
        order = torch.randperm(WAY * SHOT, generator=torch.Generator().manual_seed(1))
        mixed = problems._replace(
            support_x=problems.support_x[:, order], support_y=problems.support_y[:, order]
        )
        assert_close(predict(params, mixed, HYPER), predict(params, problems, HYPER))

    def test_answers_queries_in_their_order(self, predict, params):
        problems = episodes()
        turned = problems._replace(query_x=problems.query_x.flip(1))
        assert_close(predict(params, turned, HYPER), predict(params, problems, HYPER).flip(1))

    def test_never_sees_the_labels_of_the_queries(self, predict, params):
        problems = episodes()
        wrong = problems._replace(query_y=torch.zeros_like(problems.query_y))
        assert torch.equal(predict(params, wrong, HYPER), predict(params, problems, HYPER))

    def test_answers_each_query_without_the_others(self, predict, params):
        problems = episodes()
        first = problems._replace(query_x=problems.query_x[:, :1], query_y=problems.query_y[:, :1])
        assert_close(predict(params, first, HYPER), predict(params, problems, HYPER)[:, :1])

    def test_learns_from_the_labels_of_the_support(self, predict, params):
        problems = episodes(spread=2.0)
        other = problems._replace(support_y=(problems.support_y + 1) % WAY)
        assert (predict(params, other, HYPER) - predict(params, problems, HYPER)).abs().max() > 0.1

    def test_solves_each_problem_as_if_it_were_alone(self, predict, params):
        problems = episodes()
        alone = [predict(params, Episode(*(p[i : i + 1] for p in problems)), HYPER) for i in (0, 1)]
        assert_close(predict(params, problems, HYPER)[:2], torch.cat(alone))

    def test_mapped_over_lanes_is_a_loop_over_lanes(self, predict, name):
        lanes = [fresh(learner(name), seed) for seed in range(3)]
        hypers = [{k: v * (1 + i) for k, v in HYPER.items()} for i in range(3)]
        stacked = {k: torch.stack([lane[k] for lane in lanes]) for k in lanes[0]}
        hyper = {k: torch.stack([one[k] for one in hypers]) for k in HYPER}
        problems = episodes()
        mapped = vmap(predict, in_dims=(0, None, 0))(stacked, problems, hyper)
        looped = [predict(p, problems, h) for p, h in zip(lanes, hypers, strict=True)]
        assert_close(mapped, torch.stack(looped))


# Of the others, what they take for the gradient is in test_regression.
SECOND_ORDER = [name for name in LEARNERS if name not in ("fomaml", "reptile")]


@pytest.mark.parametrize("name", SECOND_ORDER)
def test_the_meta_gradient_is_that_of_finite_differences(name):
    taught = learner(name)
    params = fresh(taught)
    loss = query_loss(taught, episodes(), HYPER)
    slope = grad(loss)(params)
    rng = torch.Generator().manual_seed(5)
    for _ in range(5):
        way = {k: torch.randn(v.shape, generator=rng, dtype=v.dtype) for k, v in params.items()}
        ahead = loss({k: v + 1e-6 * way[k] for k, v in params.items()})
        behind = loss({k: v - 1e-6 * way[k] for k, v in params.items()})
        expected = sum((slope[k] * way[k]).sum() for k in params)
        assert_close((ahead - behind) / 2e-6, expected, rtol=1e-5, atol=1e-7)


class TestProtoNet:
    def test_is_the_negative_squared_distance_to_class_means(self):
        taught = learner("protonet", hidden=())
        params, problems = fresh(taught), episodes()
        matrix = params["weight0"]  # the bias cancels in every distance
        means = problems.support_x.view(4, WAY, SHOT, WIDTH).mean(2) @ matrix
        expected = -torch.cdist(problems.query_x @ matrix, means).square()
        assert_close(taught.logits(params, problems, HYPER), expected)

    def test_renumbered_classes_renumber_the_logits(self):
        taught = learner("protonet")
        params, problems = fresh(taught), episodes()
        order = torch.tensor([2, 0, 1])  # class c is now called order[c]
        renamed = problems._replace(support_y=order[problems.support_y])
        after = taught.logits(params, renamed, HYPER)
        assert_close(after[..., order], taught.logits(params, problems, HYPER))

    def test_is_always_right_on_separated_gaussians(self):
        taught = learner("protonet")
        problems = episodes(b=100, spread=30.0, noise=0.05)
        for seed in range(3):
            logits = taught.logits(fresh(taught, seed), problems, HYPER)
            assert torch.equal(logits.argmax(-1), problems.query_y)

    def test_knows_unbalanced_classes(self):
        taught = ProtoNet(model=MLP(features=(1,), hidden=(), n_out=1), way=2)
        params = {"weight0": torch.ones(1, 1), "bias0": torch.zeros(1)}
        x, y = torch.tensor([[[0.0], [2.0], [7.0]]]), torch.tensor([[0, 0, 1]])
        query = torch.tensor([[[3.0]]])
        logits = taught.logits(params, Episode(x, y, query, torch.zeros(1, 1).long()), {})
        assert_close(logits, torch.tensor([[[-4.0, -16.0]]]))


class Constant:
    """A model that gives the same logits, its only parameter, to every example.

    The loss has then a gradient, p - q, and a Hessian, diag(p) - p p^T, that can be written down:
    p is the softmax of the parameter, q the classes' shares among the examples.
    """

    n_out = WAY

    def init(self, generator):
        return {"theta": torch.randn(WAY, generator=generator)}

    def apply(self, params, x):
        return params["theta"].expand(len(x), WAY)


class TestMAML:
    @pytest.fixture
    def problem(self):
        """One problem with uneven classes; the shares of support and of query."""
        support, query = torch.tensor([[0, 0, 0, 1, 2]]), torch.tensor([[2, 2, 1, 2]])
        x = torch.zeros(1, 5, 1, dtype=torch.float64)
        shares = [one_hot(y, WAY).double().mean(1)[0] for y in (support, query)]
        return Episode(x, support, x[:, :4], query), *shares

    @pytest.fixture
    def theta(self):
        return torch.tensor([0.3, -0.8, 1.1], dtype=torch.float64)

    @pytest.mark.parametrize("steps", [1, 3])
    @pytest.mark.parametrize("first_order", [False, True])
    def test_its_meta_gradient_has_the_closed_form(self, problem, theta, steps, first_order):
        episode, support, query = problem
        taught = MAML(model=Constant(), way=WAY, inner_steps=steps, first_order=first_order)
        slope = grad(query_loss(taught, episode, HYPER))({"theta": theta})["theta"]
        rate, chain, point = HYPER["lr/inner"], torch.eye(WAY, dtype=torch.float64), theta
        for _ in range(steps):
            p = point.softmax(0)
            hessian = torch.diag(p) - torch.outer(p, p)
            chain = (torch.eye(WAY, dtype=torch.float64) - rate * hessian) @ chain
            point = point - rate * (p - support)
        expected = point.softmax(0) - query
        if not first_order:
            expected = chain.T @ expected
        assert_close(slope, expected)

    def test_takes_its_steps_at_its_rates(self, problem, theta):
        episode, support, _ = problem
        taught = MAML(model=Constant(), way=WAY, inner_steps=2, adapt_steps=5)
        for stage, rate, steps in (("meta_logits", "lr/inner", 2), ("logits", "lr/adapt", 5)):
            point = theta
            for _ in range(steps):
                point = point - HYPER[rate] * (point.softmax(0) - support)
            logits = getattr(taught, stage)({"theta": theta}, episode, HYPER)
            assert_close(logits, point.expand(1, 4, WAY))

    def test_first_and_second_order_predict_the_same(self):
        first, second = (learner("maml", first_order=order) for order in (True, False))
        params, problems = fresh(first), episodes()
        for stage in ("logits", "meta_logits"):
            predictions = [getattr(one, stage)(params, problems, HYPER) for one in (first, second)]
            assert_close(*predictions)

    def test_first_and_second_order_learn_differently(self):
        first, second = (learner("maml", first_order=order) for order in (True, False))
        params, problems = fresh(first), episodes()
        slopes = [grad(query_loss(one, problems, HYPER))(params) for one in (first, second)]
        distance = sum((slopes[0][k] - slopes[1][k]).norm() for k in params)
        assert distance > 0.05 * sum(slopes[1][k].norm() for k in params)

    def test_at_a_rate_of_zero_is_the_model_itself(self):
        taught = learner("maml")
        params, problems = fresh(taught), episodes()
        hyper = HYPER | {"lr/adapt": torch.zeros((), dtype=torch.float64)}
        model = MLP(features=(WIDTH,), hidden=(8,), n_out=WAY)
        expected = torch.stack([model.apply(params, x) for x in problems.query_x])
        assert_close(taught.logits(params, problems, hyper), expected)

    def test_learns_separated_gaussians_in_enough_steps(self):
        taught = learner("maml", adapt_steps=100)
        problems = episodes(b=10, spread=4.0, noise=0.05)
        logits = taught.logits(fresh(taught), problems, HYPER | {"lr/adapt": torch.tensor(0.1)})
        assert torch.equal(logits.argmax(-1), problems.query_y)


class TestTeacher:
    @pytest.fixture
    def data(self):
        problem = episodes(b=1, seed=2)
        return problem.query_x[0].float(), problem.query_y[0]

    @pytest.mark.parametrize("c", [0.1, 1.0, 10.0])
    def test_its_fit_is_stationary(self, data, c):
        x, y = data
        weight, bias = fit_logistic(x, y, WAY, c=c)
        # The gradient, by hand: X^T (p - y) / n + W / (c n), and the mean of p - y.
        error = ((x @ weight + bias).softmax(-1) - one_hot(y, WAY)).double()
        n = len(y)
        assert (x.double().T @ error / n + weight.double() / (c * n)).abs().max() < 1e-4
        assert error.mean(0).abs().max() < 1e-4

    def test_its_fit_is_the_least_of_the_objective(self, data):
        from scipy.optimize import minimize

        x, y = (part.numpy() for part in data)
        n, d = x.shape
        weight, bias = fit_logistic(*data, WAY, c=2.0)

        def objective(flat):
            theta = torch.from_numpy(flat).requires_grad_()
            w, b = theta[: d * WAY].view(d, WAY), theta[d * WAY :]
            fit = cross_entropy(torch.from_numpy(x).double() @ w + b, torch.from_numpy(y))
            loss = fit + w.square().sum() / (2 * 2.0 * n)
            loss.backward()
            return loss.item(), theta.grad.numpy()

        best = minimize(objective, torch.zeros(d * WAY + WAY).double().numpy(), jac=True)
        weights, biases = torch.from_numpy(best.x).float().split([d * WAY, WAY])
        assert_close(weight, weights.view(d, WAY), atol=1e-3, rtol=1e-2)
        # The objective does not know a constant that all biases share.
        assert_close(bias - bias.mean(), biases - biases.mean(), atol=1e-3, rtol=1e-2)

    def test_a_stronger_penalty_gives_smaller_weights(self, data):
        norms = [fit_logistic(*data, WAY, c=c)[0].norm().item() for c in (0.01, 1.0, 100.0)]
        assert norms == sorted(norms)
        assert norms[0] < 0.5 * norms[2]

    def test_keeps_no_gradient(self, data):
        assert not any(part.requires_grad for part in fit_logistic(*data, WAY))
