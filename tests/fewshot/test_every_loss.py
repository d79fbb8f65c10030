"""The laws of all losses: gradients, symmetries, lanes, and inputs that few expect."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torch.func import vmap
from torch.testing import assert_close

from fewshot.kinds import CLASSIFICATION, REGRESSION
from fewshot.losses.distillation import HINTON, Distillation


def drawn(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def soft(temperature, kind=HINTON):
    """The soft loss of some examples; the class that the teacher thinks is right is."""

    def loss(student, teacher):
        at = torch.tensor(temperature, dtype=student.dtype)
        return kind.losses(student, teacher, at, teacher.argmax(-1)).mean()

    return loss


# Each of outputs (b, c) and of others like them, from which it takes what it is to be told.
LOSSES = {
    "cross-entropy": lambda x, of: CLASSIFICATION.losses(x, of.argmax(-1)).mean(),
    "squared error": lambda x, of: REGRESSION.losses(x, of).mean(),
    "soft, cold": soft(0.5),
    "soft": soft(1.0),
    "soft, hot": soft(20.0),
    "soft, reverse": soft(2.0, Distillation(direction="reverse")),
    "soft, standardised": soft(2.0, Distillation(standardise=True)),
    "soft, decoupled": soft(2.0, Distillation(decoupled=(1.0, 8.0))),
}
SHAPES = st.tuples(st.integers(1, 6), st.integers(2, 7))
quick = settings(max_examples=20, deadline=None)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
class TestEveryLoss:
    @quick
    @given(shape=SHAPES, seed=st.integers(0, 1000))
    def test_its_gradient_is_that_of_finite_differences(self, loss, shape, seed):
        of = drawn(seed, *shape)
        assert gradcheck(lambda x: loss(x, of), drawn(seed + 1, *shape).requires_grad_())

    @quick
    @given(shape=SHAPES, seed=st.integers(0, 1000), scale=st.sampled_from([1e-3, 1.0, 1e3]))
    def test_is_never_below_zero_nor_below_that_of_the_answer_itself(
        self, loss, shape, seed, scale
    ):
        of = scale * drawn(seed, *shape)
        best = loss(1e3 * of / scale if loss is LOSSES["cross-entropy"] else of, of)
        assert -1e-9 <= best <= loss(scale * drawn(seed + 1, *shape), of) + 1e-9

    @quick
    @given(shape=SHAPES, seed=st.integers(0, 1000), data=st.data())
    def test_does_not_see_the_order_of_classes_or_of_examples(self, loss, shape, seed, data):
        x, of = drawn(seed, *shape), drawn(seed + 1, *shape)
        rows, columns = (data.draw(st.permutations(range(n))) for n in shape)
        assert_close(loss(x[rows][:, columns], of[rows][:, columns]), loss(x, of))

    @quick
    @given(shape=SHAPES, seed=st.integers(0, 1000))
    def test_is_the_mean_over_its_examples(self, loss, shape, seed):
        x, of = drawn(seed, *shape), drawn(seed + 1, *shape)
        alone = [loss(x[i : i + 1], of[i : i + 1]) for i in range(shape[0])]
        assert_close(loss(x, of), torch.stack(alone).mean())

    def test_mapped_over_lanes_is_a_loop_over_lanes(self, loss):
        x, of = drawn(0, 3, 4, 5), drawn(1, 3, 4, 5)
        looped = [loss(*lane) for lane in zip(x, of, strict=True)]
        assert_close(vmap(loss)(x, of), torch.stack(looped))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("size", [0.0, 1e-6, 1e6])
    def test_tiny_huge_and_equal_outputs_have_finite_gradients(self, loss, size, dtype):
        for of in (drawn(1, 4, 5), torch.zeros(4, 5), size * drawn(0, 4, 5)):
            x = (size * drawn(0, 4, 5)).to(dtype).requires_grad_()
            loss(x, of.to(dtype)).backward()
            assert x.grad.isfinite().all()
