"""Each lane is optimised as torch would optimise it alone."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from tests.trials.conformance import alone, assert_same_reports, drive, protonet
from trials.programs.build import OPTIMIZERS

THEIRS = {
    "adam": lambda params, rate: torch.optim.Adam(params, lr=rate),
    "sgd": lambda params, rate: torch.optim.SGD(params, lr=rate, momentum=0.9),
}


def test_every_optimizer_is_tried():
    assert THEIRS.keys() == OPTIMIZERS.keys()


@pytest.mark.parametrize("name", OPTIMIZERS)
class TestEveryOptimizer:
    def test_gives_each_lane_what_torch_gives_it_alone(self, name):
        rng = torch.Generator().manual_seed(0)
        shapes = {"weight": (4, 3), "bias": (3,), "scale": ()}
        exact = {"generator": rng, "dtype": torch.float64}
        params = {key: torch.randn(5, *shape, **exact) for key, shape in shapes.items()}
        rates = torch.tensor([0.0, 1e-3, 1e-2, 0.1, 1.0], dtype=torch.float64)
        steps = torch.zeros(5, dtype=torch.int64)
        alone = [
            [value[lane].clone().requires_grad_() for value in params.values()] for lane in range(5)
        ]
        theirs = [THEIRS[name](own, rates[lane].item()) for lane, own in enumerate(alone)]
        slots = OPTIMIZERS[name].zeros_like(params)
        for _ in range(4):
            grads = {k: torch.randn(v.shape, **exact) for k, v in params.items()}
            steps += 1
            OPTIMIZERS[name].update_(params, grads, slots, steps, rates)
            for lane, optimizer in enumerate(theirs):
                for value, grad in zip(alone[lane], grads.values(), strict=True):
                    value.grad = grad[lane]
                optimizer.step()
        for lane, own in enumerate(alone):
            for value, expected in zip(params.values(), own, strict=True):
                assert_close(value[lane], expected.detach())

    def test_is_taken_up_again_where_a_trial_was_left(self, name, tmp_path):
        case = replace(protonet(tmp_path), double=True)
        recipe = replace(case.recipe, optimizer=name)
        specs = [case.spec(number, recipe=recipe, rungs=(2, 5)) for number in range(2)]
        killed = case.program(tmp_path / "runs", lanes=2, recipe=recipe)
        for spec in specs:
            killed.admit(spec)
        killed.advance()
        stories = drive(case.program(tmp_path / "runs", lanes=2, recipe=recipe), specs)
        for spec in specs:
            told = alone(replace(case, recipe=recipe), spec, tmp_path / spec.key).reports
            assert_same_reports(stories[spec.key].reports, told)
