"""The functions that learners are made of are what PyTorch says they are."""

import pytest
import torch
from torch.func import grad
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from fewshot.functional import cross_entropies, log_softmax


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("n_classes", [1, 2, 5, 15, 16, 40])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (2, 3, 4)])
def test_log_softmax_is_pytorchs_with_its_gradient(shape, n_classes, rng):
    logits, weights = 5 * torch.randn(2, *shape, n_classes, generator=rng).double()
    assert_close(log_softmax(logits), logits.log_softmax(-1))
    slopes = [
        grad(lambda x, f=f: (f(x) * weights).sum())(logits)
        for f in (log_softmax, lambda x: x.log_softmax(-1))
    ]
    assert_close(*slopes)


@pytest.mark.parametrize("n_classes", [2, 5, 20])
def test_cross_entropies_are_pytorchs_and_nothing_for_padding(n_classes, rng):
    logits = torch.randn(3, 8, n_classes, generator=rng).double()
    labels = torch.randint(-1, n_classes, (3, 8), generator=rng)
    expected = cross_entropy(
        logits.flatten(0, 1), labels.flatten(), reduction="none", ignore_index=-1
    )
    assert (labels < 0).any()
    assert_close(cross_entropies(logits, labels), expected.view(3, 8))
