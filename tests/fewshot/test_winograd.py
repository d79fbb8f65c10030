"""A convolution by few multiplications is the convolution."""

import pytest
import torch
from torch.nn.functional import conv2d
from torch.testing import assert_close

from fewshot.models.convolution.winograd import Winograd, neighbour_differences


def convolved(sides, n_in=5, n_out=3):
    """The four outputs that are pooled: ours, and PyTorch's of the same numbers in float64."""
    rng = torch.Generator().manual_seed(sides[0])
    x = torch.randn(*sides, 4, n_in, generator=rng)
    kernel = torch.randn(n_out, n_in, 3, 3, generator=rng)
    whole = conv2d(x.permute(2, 3, 0, 1).double(), kernel.double(), padding=1).permute(2, 3, 0, 1)
    h, w = (side // 2 * 2 for side in sides)
    four = torch.stack([whole[i:h:2, j:w:2] for i in (0, 1) for j in (0, 1)])
    return x, kernel, four


@pytest.mark.parametrize("sides", [(2, 2), (3, 4), (5, 2), (6, 7), (8, 8), (9, 13), (17, 14)])
def test_gives_what_is_pooled_of_a_padded_convolution(sides):
    x, kernel, expected = convolved(sides)
    found = torch.stack(Winograd(*sides)(x.double(), kernel.double()))
    assert_close(found, neighbour_differences(expected))


@pytest.mark.parametrize("sides", [(3, 3), (7, 7), (8, 8)])
def test_errs_in_single_precision_by_millionths(sides):
    x, kernel, expected = convolved(sides, n_in=32, n_out=32)
    found = torch.stack(Winograd(*sides)(x, kernel))
    error = (found - neighbour_differences(expected)).square().mean().sqrt()
    assert 0 < error < 5e-6 * expected.square().mean().sqrt()
