"""A row labelled -1 is padding: a problem with it is learned as it would be without."""

import pytest
import torch
from torch.func import grad
from torch.testing import assert_close

from fewshot.conformance.learner_setup import hyperparameters, made, meta_loss
from fewshot.conformance.learners import fresh
from fewshot.conformance.problems import WAY, WIDTH, classes
from fewshot.episodes import Episode
from fewshot.learners.learners import LEARNERS
from tests.rounding import rounding

# The losses of problems with padding are multiplied by a quotient of counts in float32, and so are
# the gradients of each of the steps that a learner adapts in.
_STEPS = 3
WITHIN = {"rtol": rounding(_STEPS, torch.float32), "atol": rounding(_STEPS, torch.float32)}


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


@pytest.mark.parametrize("make", LEARNERS.values(), ids=LEARNERS)
@pytest.mark.parametrize("stage", ["logits", "meta_logits"])
class TestPadding:
    @pytest.fixture
    def wider(self, make):
        """The learner of two classes more, its parameters, and what of them the others need."""
        taught = made(make, way=WAY + 2)

        def of_the_first(values):
            if not make.model_scores_classes:
                return values
            return {k: v[..., :WAY] if v.shape[-1] == WAY + 2 else v for k, v in values.items()}

        return taught, fresh(taught), of_the_first

    def test_changes_no_answer(self, make, wider, stage):
        taught, params, of_the_first = wider
        problems, hyper = padded(classes()), hyperparameters(make)
        logits = getattr(taught, stage)(params, problems, hyper)
        expected = getattr(made(make), stage)(of_the_first(params), classes(), hyper)
        assert_close(logits[problems.query_y >= 0][:, :WAY], expected.flatten(0, 1), **WITHIN)

    def test_leaves_no_chance_to_a_class_without_examples(self, make, wider, stage):
        taught, params, _ = wider
        logits = getattr(taught, stage)(params, padded(classes()), hyperparameters(make))
        assert logits.isfinite().all()
        assert logits.softmax(-1)[..., WAY:].eq(0).all()

    def test_changes_nothing_that_is_learned(self, make, wider, stage):
        taught, params, of_the_first = wider
        hyper = hyperparameters(make)
        found = grad(meta_loss(taught, padded(classes()), hyper))(params)
        expected = grad(meta_loss(made(make), classes(), hyper))(of_the_first(params))
        assert_close(of_the_first(found), expected, **WITHIN)
        if make.model_scores_classes:
            assert found["bias1"][WAY:].eq(0).all(), "what no class needs stays as it is"

    def test_leaves_gradients_finite_in_single_precision(self, make, wider, stage):
        taught, params, _ = wider
        parts = padded(classes(), junk=1.0)
        problems = Episode(*(p.float() if p.is_floating_point() else p for p in parts))
        single = {name: value.float() for name, value in params.items()}
        hyper = hyperparameters(make, dtype=torch.float32)
        slope = grad(meta_loss(taught, problems, hyper))(single)
        assert all(part.isfinite().all() for part in slope.values())
