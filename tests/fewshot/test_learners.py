"""What each learner computes, against closed forms. The laws of all are the conformance suite."""

import pytest
import torch
from torch.func import grad
from torch.nn.functional import cross_entropy, normalize, one_hot
from torch.testing import assert_close

from fewshot.conformance.learner_setup import made, meta_loss
from fewshot.conformance.learners import ExactLearnerLaws, LearnerLaws, fresh
from fewshot.conformance.problems import QUERY, SHOT, WAY, WIDTH
from fewshot.conformance.problems import classes as episodes
from fewshot.episodes import Episode
from fewshot.errors.inputs import InputError
from fewshot.learners.fine_tuned import FineTunedProtoNet
from fewshot.learners.gradient.maml import MAML
from fewshot.learners.learners import LEARNERS
from fewshot.learners.metric.matching import MatchingNet
from fewshot.learners.metric.protonet import ProtoNet
from fewshot.learners.metric.ridge import Ridge, ridge
from fewshot.learners.metric.simpleshot import SimpleShot
from fewshot.learners.teacher import fit_logistic
from fewshot.models.mlp import MLP
from fewshot.models.untrained import Untrained
from tests.rounding import default_dtype, rounding

# These take something else for the gradient on purpose; what, is tested below and for regression.
INEXACT = {name: LEARNERS[name] for name in ("fine_tuned_protonet", "fomaml", "reptile")}
EXACT = {name: make for name, make in LEARNERS.items() if name not in INEXACT}
EMBEDDING = [name for name, make in LEARNERS.items() if not make.model_scores_classes]


@pytest.mark.parametrize("make", EXACT.values(), ids=EXACT)
class TestEveryExactLearner(ExactLearnerLaws):
    pass


@pytest.mark.parametrize("make", INEXACT.values(), ids=INEXACT)
class TestEveryOtherLearner(LearnerLaws):
    pass


HYPER = {
    "lr/outer": torch.tensor(0.01, dtype=torch.float64),
    "lr/inner": torch.tensor(0.4, dtype=torch.float64),
    "modal/text": torch.tensor(0.3, dtype=torch.float64),
    "lr/adapt": torch.tensor(0.3, dtype=torch.float64),
    "adapt/steps": torch.tensor(2.0, dtype=torch.float64),
}


def learner(name, **options):
    return made(LEARNERS[name], **options)


@pytest.mark.parametrize("name", EMBEDDING)
def test_is_always_right_on_separated_gaussians(name):
    # A strong penalty favours the classes that lie far out; from a linear head so do few steps.
    own = {"ridge": {"penalty": 1e-6}, "baseline": {"adapt_steps": 50}}
    taught = learner(name, hidden=(), **own.get(name, {}))
    problems = episodes(b=100, spread=30.0, noise=0.05)
    for seed in range(3):
        logits = taught.logits(fresh(taught, seed), problems, HYPER)
        assert torch.equal(logits.argmax(-1), problems.query_y)


@pytest.mark.parametrize("steps", [-1, 0, 1.5, [1, 3], "1"])
@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("maml", "inner_steps"),
        ("maml", "adapt_steps"),
        ("reptile", "inner_steps"),
        ("meta_sgd", "adapt_steps"),
        ("baseline", "adapt_steps"),
    ],
)
def test_numbers_of_steps_are_whole_and_not_negative(name, option, steps):
    model = MLP(features=(2,), hidden=[4], n_out=2)
    if (option, steps) == ("adapt_steps", 0):  # without adaptation; reports compare with it
        LEARNERS[name](model=model, way=2, **{option: steps})
        return
    with pytest.raises(InputError, match=rf"learner.{option}: must be a whole number of at least"):
        LEARNERS[name](model=model, way=2, **{option: steps})


@pytest.mark.parametrize("name", ["matching", "ridge", "simpleshot"])
@pytest.mark.parametrize("scale", [0, -1.0, float("nan"), float("inf")])
def test_a_scale_is_above_zero(name, scale):
    with pytest.raises(InputError, match=r"learner.scale: must be a number above 0"):
        learner(name, scale=scale)


def same_chances(logits, expected):
    """What is the same for all classes makes no difference to their probabilities."""
    assert_close(logits.log_softmax(-1), expected.log_softmax(-1), atol=1e-6, rtol=1e-5)


class TestProtoNet:
    def test_is_the_negative_squared_distance_to_class_means(self):
        taught = learner("protonet", hidden=())
        params, problems = fresh(taught), episodes()
        matrix = params["weight0"]  # the bias cancels in every distance
        means = problems.support_x.view(4, WAY, SHOT, WIDTH).mean(2) @ matrix
        expected = -torch.cdist(problems.query_x @ matrix, means).square()
        same_chances(taught.logits(params, problems, HYPER), expected)

    def test_knows_unbalanced_classes(self):
        taught = ProtoNet(model=MLP(features=(1,), hidden=(), n_out=1), way=2)
        params = {"weight0": torch.ones(1, 1), "bias0": torch.zeros(1)}
        x, y = torch.tensor([[[0.0], [2.0], [7.0]]]), torch.tensor([[0, 0, 1]])
        query = torch.tensor([[[3.0]]])
        logits = taught.logits(params, Episode(x, y, query, torch.zeros(1, 1).long()), {})
        same_chances(logits, torch.tensor([[[-4.0, -16.0]]]))


class TestFineTunedProtoNet:
    @pytest.mark.parametrize("inner", ["head", "all"])
    def test_without_steps_is_a_prototypical_network(self, inner):
        taught, plain = learner("fine_tuned_protonet", inner=inner), learner("protonet")
        params, problems = fresh(taught), episodes()
        expected = plain.logits(params, problems, HYPER)
        found = taught.logits(params, problems, HYPER | {"adapt/steps": torch.tensor(0.4)})
        same_chances(found, expected)
        assert_close(taught.meta_logits(params, problems, HYPER), expected)

    @pytest.mark.parametrize("inner", ["head", "all"])
    def test_each_step_lowers_the_loss_of_the_support(self, inner):
        taught = learner("fine_tuned_protonet", inner=inner, adapt_steps=9)
        params, problems = fresh(taught), episodes()
        own = problems._replace(query_x=problems.support_x, query_y=problems.support_y)
        rate = {"lr/adapt": torch.tensor(0.02, dtype=torch.float64)}
        losses = []
        for steps in (0, 1, 3, 9):
            hyper = HYPER | rate | {"adapt/steps": torch.tensor(float(steps))}
            logits = taught.logits(params, own, hyper)
            losses.append(float(cross_entropy(logits.flatten(0, 1), own.query_y.flatten())))
        assert losses == sorted(losses, reverse=True)
        assert losses[-1] < losses[0]

    def test_a_step_of_the_head_is_that_of_a_logistic_regression(self):
        taught = FineTunedProtoNet(model=Untrained(), way=WAY)
        problems = episodes(b=1)
        x, y = problems.support_x[0], problems.support_y[0]
        means = x.view(WAY, SHOT, WIDTH).mean(1)
        weight = (2 * means.T).requires_grad_()
        bias = (-means.square().sum(1)).requires_grad_()
        cross_entropy(x @ weight + bias, y).backward()
        moved = (weight - 0.3 * weight.grad), (bias - 0.3 * bias.grad)
        hyper = HYPER | {"adapt/steps": torch.tensor(1.0)}
        found = taught.logits({}, problems, hyper)[0]
        assert_close(found, problems.query_x[0] @ moved[0] + moved[1])

    @pytest.mark.parametrize("options", [{"inner": "body"}, {"adapt_steps": -1}])
    def test_wrong_options_are_refused(self, options):
        with pytest.raises(InputError, match=f"learner.{next(iter(options))}: must be"):
            learner("fine_tuned_protonet", **options)


class TestMatchingNet:
    def test_is_the_attention_that_each_class_gets(self):
        taught = MatchingNet(model=Untrained(), way=WAY, scale=4.0)
        problems = episodes(b=1)
        support = normalize(problems.support_x[0], dim=-1)
        query = normalize(problems.query_x[0], dim=-1)
        attention = (4.0 * query @ support.T).softmax(-1)
        expected = attention @ one_hot(problems.support_y[0], WAY).double()
        logits = taught.logits(fresh(taught), problems, {})[0]
        assert_close(logits.exp(), expected, atol=1e-6, rtol=1e-5)
        assert_close(logits.exp().sum(-1), torch.ones(WAY * QUERY).double())

    def test_a_class_without_examples_is_the_last_that_it_thinks_of(self):
        taught = MatchingNet(model=Untrained(), way=WAY + 1)
        logits = taught.logits(fresh(taught), episodes(), {})
        assert logits.isfinite().all()
        assert (logits[..., WAY] < logits[..., :WAY].amin(-1) - 1e6).all()


class TestRidge:
    @pytest.mark.parametrize("shot", [1, 2, 10])  # 3 to 30 examples of 6 features
    @pytest.mark.parametrize("penalty", [1e-3, 1.0, 100.0])
    def test_is_the_least_of_its_objective(self, shot, penalty):
        problems = episodes(b=5, shot=shot)
        x, y = problems.support_x, one_hot(problems.support_y, WAY).double()
        weight = ridge(x, y, torch.tensor(penalty, dtype=torch.float64))
        for one, target, found in zip(x, y, weight, strict=True):
            strength = penalty * one.square().sum(1).mean()
            # (X'X + rI) W = X'Y, by a general inverse instead of either system.
            inverse = torch.linalg.pinv(one.T @ one + strength * torch.eye(WIDTH).double())
            assert_close(found, inverse @ one.T @ target, atol=1e-9, rtol=1e-7)

    @pytest.mark.parametrize("n", [3, 7])  # examples of 5 features
    def test_is_least_squares_with_rows_added(self, n):
        """Ridge regression is least squares with sqrt(r) I below X and zeros below Y."""
        rng = torch.Generator().manual_seed(0)
        x, y = (torch.randn(2, n, k, generator=rng, dtype=torch.float64) for k in (5, 3))
        weight = ridge(x, y, torch.tensor(0.5).double())
        for one, target, found in zip(x, y, weight, strict=True):
            root = (0.5 * one.square().sum(1).mean()).sqrt()
            more = torch.cat([one, root * torch.eye(5).double()])
            expected = torch.linalg.lstsq(more, torch.cat([target, torch.zeros(5, 3).double()]))
            assert_close(found, expected.solution, atol=1e-9, rtol=1e-7)

    def test_single_precision_is_near_double(self):
        problems = episodes(shot=1)
        x, y = problems.support_x, one_hot(problems.support_y, WAY).double()
        for scale in (1e-3, 1.0, 1e6):
            exact = ridge(scale * x, y, torch.tensor(0.1).double())
            rounded = ridge(scale * x.float(), y.float(), torch.tensor(0.1))
            # A Gram matrix is at most n times the mean square, of which the penalty is a tenth.
            within = rounding(x[0].numel(), torch.float32, condition=1 + x.shape[1] / 0.1)
            assert_close(rounded.double(), exact, rtol=0, atol=within * exact.abs().max().item())

    def test_does_not_notice_the_unit_of_its_inputs(self):
        taught = Ridge(model=Untrained(), way=WAY)
        problems, params = episodes(), fresh(taught)
        x = 1e3 * problems.support_x, 1e3 * problems.query_x
        larger = problems._replace(support_x=x[0], query_x=x[1])
        assert_close(taught.logits(params, larger, {}), taught.logits(params, problems, {}))

    def test_its_scale_scales_and_its_penalty_shrinks(self):
        problems = episodes()

        def size(**options):
            taught = Ridge(model=Untrained(), way=WAY, **options)
            return taught.logits(fresh(taught), problems, {}).norm()

        assert_close(size(scale=20.0), 2 * size(scale=10.0), rtol=1e-6, atol=0)
        assert size(penalty=10.0) < size(penalty=1.0) < size(penalty=0.1)

    def test_a_penalty_is_above_zero(self):
        with pytest.raises(InputError, match=r"learner.penalty: must be a number above 0"):
            Ridge(model=Untrained(), way=WAY, penalty=0.0)


class TestSimpleShot:
    def test_is_the_distance_to_the_mean_direction_of_a_class(self):
        taught = SimpleShot(model=Untrained(), way=WAY, scale=3.0)
        problems = episodes()
        middle = problems.support_x.mean(1, keepdim=True)
        directions = normalize(problems.support_x - middle, dim=-1)
        means = directions.view(4, WAY, SHOT, WIDTH).mean(2)
        queries = normalize(problems.query_x - middle, dim=-1)
        expected = -3.0 * torch.cdist(queries, means).square()
        same_chances(taught.logits(fresh(taught), problems, {}), expected)

    def test_does_not_notice_where_the_origin_is(self):
        taught = SimpleShot(model=Untrained(), way=WAY)
        problems, params = episodes(), fresh(taught)
        x = problems.support_x + 5.0, problems.query_x + 5.0
        moved = problems._replace(support_x=x[0], query_x=x[1])
        same_chances(taught.logits(params, moved, {}), taught.logits(params, problems, {}))


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
        slope = grad(meta_loss(taught, episode, HYPER))({"theta": theta})["theta"]
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
        slopes = [grad(meta_loss(one, problems, HYPER))(params) for one in (first, second)]
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

    @pytest.fixture
    def exact(self, data):
        """In float64: in float32 a fit ends where its loss is all rounding."""
        with default_dtype(torch.float64):
            yield data[0].double(), data[1]

    @staticmethod
    def rest(x, c):
        """The largest gradient that a fit may leave.

        L-BFGS ends where a step lowers the loss by less than 1e-9, and a step along a gradient g
        lowers it by |g|^2 / 2h, where h is the largest curvature of the objective.
        """
        both = torch.cat([x, torch.ones(len(x), 1)], 1)
        h = torch.linalg.matrix_norm(both, 2) ** 2 / (2 * len(x)) + 1 / (c * len(x))
        return (2 * h * 1e-9).sqrt().item()

    @pytest.mark.parametrize("c", [0.1, 1.0, 10.0])
    def test_its_fit_is_stationary(self, exact, c):
        x, y = exact
        weight, bias = fit_logistic(x, y, WAY, c=c)
        # The gradient, by hand: X^T (p - y) / n + W / (c n), and the mean of p - y.
        error = (x @ weight + bias).softmax(-1) - one_hot(y, WAY)
        n = len(y)
        assert (x.T @ error / n + weight / (c * n)).abs().max() < self.rest(x, c)
        assert error.mean(0).abs().max() < self.rest(x, c)

    def test_its_fit_is_the_least_of_the_objective(self, exact):
        from scipy.optimize import minimize

        x, y = (part.numpy() for part in exact)
        n, d = x.shape
        weight, bias = fit_logistic(*exact, WAY, c=2.0)

        def objective(flat):
            theta = torch.from_numpy(flat).requires_grad_()
            w, b = theta[: d * WAY].view(d, WAY), theta[d * WAY :]
            fit = cross_entropy(torch.from_numpy(x) @ w + b, torch.from_numpy(y))
            loss = fit + w.square().sum() / (2 * 2.0 * n)
            loss.backward()
            return loss.item(), theta.grad.numpy()

        start = torch.zeros(d * WAY + WAY).numpy()
        best = minimize(objective, start, jac=True, options={"gtol": 1e-9})
        weights, biases = torch.from_numpy(best.x).split([d * WAY, WAY])
        # The least curvature is that of the penalty: how far a gradient is from the least one.
        within = self.rest(exact[0], 2.0) * (2.0 * n)
        assert_close(weight, weights.view(d, WAY), atol=within, rtol=0)
        # The objective does not know a constant that all biases share.
        assert_close(bias - bias.mean(), biases - biases.mean(), atol=within, rtol=0)

    def test_a_stronger_penalty_gives_smaller_weights(self, data):
        norms = [fit_logistic(*data, WAY, c=c)[0].norm().item() for c in (0.01, 1.0, 100.0)]
        assert norms == sorted(norms)
        assert norms[0] < 0.5 * norms[2]

    def test_keeps_no_gradient(self, data):
        assert not any(part.requires_grad for part in fit_logistic(*data, WAY))
