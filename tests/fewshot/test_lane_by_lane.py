"""What is mapped lane by lane is what it is for each lane, and what it would be mapped at once."""

import pytest
import torch
from torch.func import grad, vmap
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from fewshot.lane_by_lane import is_mapped, lane_by_lane
from fewshot.models.conv import Conv


class Calls:
    """Counts those of a function of a weight (2, 3) and inputs (b, 2)."""

    def __init__(self):
        self.dims = []

    def __call__(self, x, weight):
        self.dims.append((x.dim(), weight.dim()))
        return (x @ weight).tanh()

    def apart(self, x, weight):
        return lane_by_lane(self, x, weight)


@pytest.fixture
def lanes():
    rng = torch.Generator().manual_seed(0)
    return torch.randn(4, 5, 2, generator=rng), torch.randn(4, 2, 3, generator=rng)


def test_each_lane_is_called(lanes):
    calls = Calls()
    assert_close(vmap(calls.apart)(*lanes), torch.stack(list(map(calls, *lanes))))
    assert calls.dims[:4] == [(2, 2)] * 4


@pytest.mark.parametrize("in_dims", [(None, 0), (0, None), (1, 2)])
def test_what_lanes_share_or_lead_with(lanes, in_dims):
    x, weight = lanes
    x = x[0] if in_dims[0] is None else x.movedim(0, in_dims[0])
    weight = weight[0] if in_dims[1] is None else weight.movedim(0, in_dims[1])
    found = vmap(Calls().apart, in_dims=in_dims)(x, weight)
    assert_close(found, vmap(Calls(), in_dims=in_dims)(x, weight))


def test_gradients_are_those_of_each_lane(lanes):
    x, weight = lanes
    weight.requires_grad_()
    found = torch.autograd.grad(vmap(Calls().apart)(x, weight).square().sum(), weight)
    assert_close(found, torch.autograd.grad((x @ weight).tanh().square().sum(), weight))


@pytest.mark.parametrize(
    "transformed",
    [
        lambda f: vmap(grad(lambda w, x: f(x, w).sum())),
        lambda f: grad(lambda w, x: vmap(f)(x, w).sum()),
        lambda f: lambda w, x: vmap(vmap(f, in_dims=(0, None)))(x.unsqueeze(2), w),
    ],
)
def test_within_other_transforms_it_is_as_if_it_were_not_there(lanes, transformed):
    x, weight = lanes
    assert_close(transformed(Calls().apart)(weight, x), transformed(Calls())(weight, x))


class NoGroups(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name in ("convolution", "convolution_backward"):
            groups = next(arg for arg in reversed(args) if type(arg) is int)
            assert groups == 1
            self.seen.add(name)
        return function(*args, **(kwargs or {}))


def test_convolutions_of_lanes_are_not_grouped():
    model = Conv(features=(20, 20), width=4, blocks=2, n_out=3)
    each = [model.init(torch.Generator().manual_seed(seed)) for seed in range(3)]
    stacked = {key: torch.stack([p[key] for p in each]).requires_grad_() for key in each[0]}
    x = torch.rand(6, 20, 20, generator=torch.Generator().manual_seed(9))
    with NoGroups() as mode:
        outputs = vmap(model.apply, in_dims=(0, None))(stacked, x)
        torch.autograd.grad(outputs.sum(), list(stacked.values()))
    assert mode.seen == {"convolution", "convolution_backward"}
    assert torch.equal(outputs, torch.stack([model.apply(params, x) for params in each]))


def test_knows_whether_it_is_mapped():
    said = []

    def look(x):
        said.append(is_mapped())
        return x.sum()

    look(torch.ones(2))
    grad(look)(torch.ones(2))
    vmap(look)(torch.ones(2, 2))
    vmap(grad(look))(torch.ones(2, 2))
    grad(lambda x: vmap(look)(x).sum())(torch.ones(2, 2))
    assert said == [False, False, True, True, True]
