"""A single lane, which is not mapped, is what it would be among others."""

import pytest
import torch
from torch.testing import assert_close

from trials.lanes.step.mapping import over_lanes

SHAPES = {"weight": (4, 2), "bias": (2,)}


def affine(params, x, scale):
    assert x.dim() == 2
    return (x @ params["weight"] + params["bias"]) * scale


@pytest.mark.parametrize("shared", [None, 1])
def test_a_lane_gives_the_same_alone_as_among_others(shared):
    rng = torch.Generator().manual_seed(0)
    exact = {"generator": rng, "dtype": torch.float64}
    params = {name: torch.randn(3, *shape, **exact) for name, shape in SHAPES.items()}
    x = torch.randn(*([] if shared else [3]), 5, 4, **exact)
    scale = torch.randn(3, **exact)
    mapped = over_lanes(affine, shared=shared)
    together = mapped(params, x, scale)
    assert together.shape == (3, 5, 2)
    for i in range(3):
        row = slice(i, i + 1)
        own = {name: value[row] for name, value in params.items()}
        assert_close(mapped(own, x if shared else x[row], scale[row]), together[row])
