"""The optimiser of the lanes, against those of torch."""

import pytest
import torch
from torch.testing import assert_close

from trials.lanes.optimizers import adam

RATES, DECAYS = (0.1, 0.01, 0.03), (0.0, 0.3, 2.0)


@pytest.mark.parametrize("decays", [None, DECAYS])
def test_each_lane_is_adam_w_of_torch(decays):
    rng = torch.Generator().manual_seed(0)
    exact = {"generator": rng, "dtype": torch.float64}
    params = {"a": torch.randn(3, 4, 2, **exact), "b": torch.randn(3, 5, **exact)}
    theirs = [{name: value[i].clone() for name, value in params.items()} for i in range(3)]
    optimizers = [
        torch.optim.AdamW(own.values(), lr=RATES[i], weight_decay=decays[i] if decays else 0.0)
        for i, own in enumerate(theirs)
    ]
    moments, rates = adam.zeros_like(params), torch.tensor(RATES, dtype=torch.float64)
    for step in range(1, 6):
        grads = {n: torch.randn(v.shape, **exact) for n, v in params.items()}
        if decays:
            adam.decay_(params, rates, torch.tensor(decays, dtype=torch.float64))
        adam.update_(params, grads, moments, torch.full((3,), step), rates)
        for i, own in enumerate(theirs):
            for name, value in own.items():
                value.grad = grads[name][i]
            optimizers[i].step()
    for i, own in enumerate(theirs):
        for name, value in own.items():
            assert_close(params[name][i], value)
