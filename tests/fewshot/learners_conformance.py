"""The laws of `Learner`, over every learner in the registry, and the problems they are tested on.

A learner that joins `LEARNERS` is tested by that alone. One of another package can be put there by
its own tests, which then import `TestEveryLearner`.
"""

import pytest
import torch
from torch.autograd import gradcheck
from torch.func import grad, vmap
from torch.testing import assert_close

from fewshot.episodes import Episode
from fewshot.kinds import CLASSIFICATION
from fewshot.learners.base import OwnLoss
from fewshot.learners.learners import HYPERPARAMETERS, LEARNERS
from fewshot.models.mlp import MLP

WAY, SHOT, QUERY, WIDTH = 3, 2, 4, 6
HUGE = 1e6
# Those whose model does not number the classes: any order of them, and any number, must do.
EMBEDDING = [name for name in LEARNERS if not LEARNERS[name].model_scores_classes]


def learner(name, *, way=WAY, hidden=(8,), **options):
    n_out = way if LEARNERS[name].model_scores_classes else 5
    model = MLP(features=(WIDTH,), hidden=hidden, n_out=n_out)
    return LEARNERS[name](model=model, way=way, **options)


def fresh(learner, seed=0, dtype=torch.float64):
    made = learner.init(torch.Generator().manual_seed(seed))
    return {name: value.to(dtype) for name, value in made.items()}


def hyperparameters(name, rate=0.3, dtype=torch.float64):
    """Each a little different from the others, about `rate`."""
    names = HYPERPARAMETERS[name]
    return {key: torch.tensor(rate * (1 + i / 8), dtype=dtype) for i, key in enumerate(names)}


def episodes(b=4, seed=0, spread=1.0, noise=1.0, *, way=WAY, shot=SHOT):
    """b problems in float64, whose classes are Gaussians."""
    rng = torch.Generator().manual_seed(seed)
    means = torch.randn(b, way, WIDTH, generator=rng, dtype=torch.float64) * spread

    def draw(n):
        y = torch.arange(way).repeat_interleave(n).expand(b, -1)
        x = torch.randn(b, way * n, WIDTH, generator=rng, dtype=torch.float64) * noise
        return means.repeat_interleave(n, 1) + x, y

    return Episode(*draw(shot), *draw(QUERY))


def _constant():
    problems = episodes()
    ones = problems._replace(support_x=torch.ones_like(problems.support_x))
    return ones._replace(query_x=torch.ones_like(problems.query_x))


def _nothing():
    problems = _constant()
    return problems._replace(support_x=0 * problems.support_x, query_x=0 * problems.query_x)


def _duplicates():
    """Every class has the same examples, and the queries are among them."""
    problems = episodes()
    x = problems.support_x[:, :SHOT].repeat(1, WAY, 1)
    return problems._replace(support_x=x, query_x=x.repeat(1, QUERY // SHOT, 1))


def _huge(problems):
    return problems._replace(support_x=HUGE * problems.support_x, query_x=HUGE * problems.query_x)


def _one_of_a_kind():
    """Two classes have one example each, the third has all the others."""
    problems = episodes()
    y = torch.tensor([0, 1] + [2] * (WAY * SHOT - 2)).expand_as(problems.support_y)
    return problems._replace(support_y=y)


NASTY = {
    "one example a class": lambda: episodes(shot=1),
    "uneven classes": _one_of_a_kind,
    "constant features": _constant,
    "no features": _nothing,
    "duplicates in all classes": _duplicates,
    "huge": lambda: _huge(episodes()),
    "huge constant": lambda: _huge(_constant()),
    "huge duplicates": lambda: _huge(_duplicates()),
}


def padded(problems, junk=100.0):
    """The same with two rows of padding before each class, and as many rows as two classes more."""

    def pad(x, y):
        b, n = y.shape
        x = x.unflatten(1, (WAY, -1))
        x = torch.cat([torch.full_like(x[:, :, :2], junk), x], 2).flatten(1, 2)
        y = torch.cat([torch.full((b, WAY, 2), -1), y.unflatten(1, (WAY, -1))], 2).flatten(1, 2)
        more = x.new_full((b, 2 * n // WAY, WIDTH), -junk)
        return torch.cat([x, more], 1), torch.cat([y, torch.full(more.shape[:2], -1)], 1)

    support, query = pad(*problems[:2]), pad(*problems[2:])
    return Episode(*support, *query)


def meta_loss(learner, problems, hyper):
    """The loss of meta-training as a function of the parameters."""

    def loss(params):
        if isinstance(learner, OwnLoss):
            return learner.meta_losses(params, problems, hyper).mean()
        logits = learner.meta_logits(params, problems, hyper)
        return CLASSIFICATION.losses(logits, problems.query_y).mean()

    return loss


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("stage", ["logits", "meta_logits"])
class TestEveryLearner:
    @pytest.fixture
    def hyper(self, name):
        return hyperparameters(name)

    @pytest.fixture
    def predict(self, name, stage, hyper):
        """Logits of problems, given the parameters."""
        method = getattr(learner(name), stage)
        return lambda params, problems, hyper=hyper: method(params, problems, hyper)

    @pytest.fixture
    def params(self, name):
        return fresh(learner(name))

    # ---- what is asked, and what is answered ------------------------------------------------

    def test_scores_every_class_for_every_query(self, predict, params):
        assert predict(params, episodes()).shape == (4, WAY * QUERY, WAY)

    def test_says_what_hyperparameters_it_reads(self, predict, params, name, hyper):
        read = set()

        class Watched(dict):
            def __getitem__(self, key):
                read.add(key)
                return super().__getitem__(key)

        everything = dict.fromkeys(set().union(*HYPERPARAMETERS.values()), torch.tensor(0.1))
        predict(params, episodes(), Watched(everything | hyper))
        assert read <= set(HYPERPARAMETERS[name])

    def test_is_the_same_each_time_whatever_the_ambient_seed(self, predict, name):
        answers = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            answers.append(predict(fresh(learner(name)), episodes()))
        assert torch.equal(*answers)

    def test_learns_from_the_labels_of_the_support(self, predict, params):
        problems = episodes(spread=2.0)
        other = problems._replace(support_y=(problems.support_y + 1) % WAY)
        assert (predict(params, other) - predict(params, problems)).abs().max() > 0.1

    # ---- symmetries -------------------------------------------------------------------------

    def test_does_not_see_the_order_of_the_support(self, predict, params):
        problems = episodes()
        order = torch.randperm(WAY * SHOT, generator=torch.Generator().manual_seed(1))
        mixed = problems._replace(
            support_x=problems.support_x[:, order], support_y=problems.support_y[:, order]
        )
        assert_close(predict(params, mixed), predict(params, problems))

    def test_answers_queries_in_their_order(self, predict, params):
        problems = episodes()
        turned = problems._replace(query_x=problems.query_x.flip(1))
        assert_close(predict(params, turned), predict(params, problems).flip(1))

    def test_renumbered_classes_renumber_the_logits(self, predict, params, name):
        if name not in EMBEDDING:
            pytest.skip("its model numbers the classes")
        problems = episodes()
        order = torch.tensor([2, 0, 1])  # class c is now called order[c]
        renamed = problems._replace(support_y=order[problems.support_y])
        assert_close(predict(params, renamed)[..., order], predict(params, problems))

    # ---- what it may not look at ------------------------------------------------------------

    @pytest.mark.parametrize("label", [-1, float("nan")])
    def test_never_sees_the_labels_of_the_queries(self, predict, params, label):
        problems = episodes()
        wrong = problems._replace(query_y=torch.full(problems.query_y.shape, label))
        assert torch.equal(predict(params, wrong), predict(params, problems))

    def test_answers_each_query_without_the_others(self, predict, params):
        problems = episodes()
        first = problems._replace(query_x=problems.query_x[:, :1], query_y=problems.query_y[:, :1])
        assert_close(predict(params, first), predict(params, problems)[:, :1])

    def test_solves_each_problem_as_if_it_were_alone(self, predict, params):
        problems = episodes()
        alone = [predict(params, Episode(*(p[i : i + 1] for p in problems))) for i in (0, 1)]
        assert_close(predict(params, problems)[:2], torch.cat(alone))

    # ---- episodes of unlike shapes ----------------------------------------------------------

    @pytest.fixture
    def wider(self, name):
        """The learner of two classes more, its parameters, and what of them the others need."""
        taught = learner(name, way=WAY + 2)

        def of_the_first(values):
            if name in EMBEDDING:
                return values
            return {k: v[..., :WAY] if v.shape[-1] == WAY + 2 else v for k, v in values.items()}

        return taught, fresh(taught), of_the_first

    def test_padding_changes_no_answer(self, wider, stage, predict, hyper):
        taught, params, of_the_first = wider
        problems = padded(episodes())
        logits = getattr(taught, stage)(params, problems, hyper)
        expected = predict(of_the_first(params), episodes())
        assert_close(logits[problems.query_y >= 0][:, :WAY], expected.flatten(0, 1))

    def test_a_class_without_examples_has_no_chance(self, wider, stage, hyper):
        taught, params, _ = wider
        logits = getattr(taught, stage)(params, padded(episodes()), hyper)
        assert logits.isfinite().all()
        assert logits.softmax(-1)[..., WAY:].eq(0).all()

    def test_padding_changes_nothing_that_is_learned(self, wider, stage, name, hyper):
        taught, params, of_the_first = wider
        found = grad(meta_loss(taught, padded(episodes()), hyper))(params)
        expected = grad(meta_loss(learner(name), episodes(), hyper))(of_the_first(params))
        assert_close(of_the_first(found), expected)
        if name not in EMBEDDING:
            assert found["bias1"][WAY:].eq(0).all(), "what no class needs stays as it is"

    def test_padding_leaves_gradients_finite_in_single_precision(self, wider, name, stage):
        taught, params, _ = wider
        problems = Episode(
            *(p.float() if p.is_floating_point() else p for p in padded(episodes(), junk=1.0))
        )
        hyper = hyperparameters(name, dtype=torch.float32)
        single = {key: value.float() for key, value in params.items()}
        slope = grad(meta_loss(taught, problems, hyper))(single)
        assert all(part.isfinite().all() for part in slope.values())

    # ---- lanes ------------------------------------------------------------------------------

    @pytest.fixture
    def lanes(self, name, hyper):
        """Parameters and hyperparameters of three, as lists and stacked."""
        params = [fresh(learner(name), seed) for seed in range(3)]
        hypers = [{k: v * (1 + i) for k, v in hyper.items()} for i in range(3)]
        stacked = {k: torch.stack([one[k] for one in params]) for k in params[0]}
        return params, hypers, stacked, {k: torch.stack([h[k] for h in hypers]) for k in hyper}

    def test_mapped_over_lanes_is_a_loop_over_lanes(self, predict, lanes):
        params, hypers, stacked, hyper = lanes
        problems = episodes()
        mapped = vmap(predict, in_dims=(0, None, 0))(stacked, problems, hyper)
        looped = [predict(p, problems, h) for p, h in zip(params, hypers, strict=True)]
        assert_close(mapped, torch.stack(looped))

    def test_a_lane_that_has_diverged_leaves_the_others_alone(self, predict, lanes):
        params, hypers, stacked, hyper = lanes
        for bad in (float("nan"), float("inf")):
            for value in stacked.values():
                value[1] = bad
            mapped = vmap(predict, in_dims=(0, None, 0))(stacked, episodes(), hyper)
            for i in (0, 2):
                assert_close(mapped[i], predict(params[i], episodes(), hypers[i]))

    # ---- nasty inputs -----------------------------------------------------------------------

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("case", NASTY)
    def test_nasty_inputs_have_finite_answers(self, name, stage, case, dtype):
        problems = NASTY[case]()
        x = problems.support_x.to(dtype), problems.query_x.to(dtype)
        problems = problems._replace(support_x=x[0], query_x=x[1])
        # A step along a gradient has to suit the size of the inputs.
        hyper = hyperparameters(name, 0.3 / max(1.0, x[0].abs().max().item()) ** 2, dtype)
        taught = learner(name)
        params = fresh(taught, dtype=dtype)
        assert getattr(taught, stage)(params, problems, hyper).isfinite().all()
        slope = grad(meta_loss(taught, problems, hyper))(params)
        assert all(part.isfinite().all() for part in slope.values())

    # ---- other problems than those of meta-training -----------------------------------------

    @pytest.mark.parametrize(("way", "shot"), [(2, 1), (7, 1), (7, 5)])
    def test_can_be_asked_another_number_of_classes(self, params, name, stage, way, shot):
        if name not in EMBEDDING:
            pytest.skip("its model numbers the classes")
        problems = episodes(b=50, spread=8.0, noise=0.05, way=way, shot=shot)
        logits = getattr(learner(name, way=way), stage)(params, problems, hyperparameters(name))
        assert logits.shape[-1] == way
        assert (logits.argmax(-1) == problems.query_y).double().mean() > 0.5


# The others take something else for the gradient on purpose; what, is tested beside them.
EXACT = [name for name in LEARNERS if name not in ("fomaml", "reptile")]


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("stage", ["logits", "meta_logits"])
class TestEveryExactLearner:
    def test_its_gradients_are_those_of_finite_differences(self, name, stage):
        taught, hyper = learner(name, hidden=(4,)), hyperparameters(name)
        start, problems = fresh(taught, 1), episodes(b=1)

        def logits(support_x, query_x, *values):
            asked = problems._replace(support_x=support_x, query_x=query_x)
            params = dict(zip(start, values, strict=True))
            return getattr(taught, stage)(params, asked, hyper)

        inputs = (problems.support_x, problems.query_x[:, :2], *start.values())
        assert gradcheck(logits, [part.clone().requires_grad_() for part in inputs])
