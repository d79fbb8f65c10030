"""The laws of `Model`, as tests.

`tried` is a model with a few examples for it, (n, *features), that are not all equal.
"""

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.testing import assert_close

from fewshot.functional import Params
from fewshot.models.base import Model


def fresh(model: Model, seed: int = 0) -> Params:
    """Initial parameters."""
    return model.init(torch.Generator().manual_seed(seed))


def exact(model: Model, seed: int = 0) -> Params:
    """Initial parameters in float64, in which one rounding tolerance suits all models."""
    return {name: value.double() for name, value in fresh(model, seed).items()}


class ModelLaws:
    """The laws of every model."""

    @pytest.fixture
    def model(self, tried: tuple[Model, Tensor]) -> Model:
        return tried[0]

    @pytest.fixture
    def x(self, tried: tuple[Model, Tensor]) -> Tensor:
        return tried[1]

    @pytest.fixture
    def exact_x(self, x: Tensor) -> Tensor:
        return x.double() if x.is_floating_point() else x

    def test_gives_n_out_numbers_for_each_example(self, model: Model, x: Tensor) -> None:
        outputs = model.apply(fresh(model), x)
        assert outputs.shape == (len(x), model.n_out)
        assert outputs.isfinite().all()

    def test_declares_its_last_layer(self, model: Model, exact_x: Tensor) -> None:
        """The outputs are linear in the parameters of the last layer, and 0 if these are 0."""
        params = exact(model)
        outputs = [
            model.apply(params | {k: scale * params[k] for k in model.head}, exact_x)
            for scale in (0.0, 1.0, 2.0)
        ]
        assert_close(outputs[2] - outputs[1], outputs[1] - outputs[0])
        assert outputs[0].abs().max() == 0

    def test_its_parameters_depend_only_on_the_generator(self, model: Model) -> None:
        torch.manual_seed(1)
        a = fresh(model)
        torch.manual_seed(2)
        b = fresh(model)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)
        assert any(not torch.equal(a[key], fresh(model, seed=1)[key]) for key in a)

    def test_looks_at_each_example_alone(self, model: Model, exact_x: Tensor) -> None:
        params = exact(model)
        alone = torch.cat([model.apply(params, row[None]) for row in exact_x])
        assert_close(model.apply(params, exact_x), alone)

    def test_reads_every_parameter(self, model: Model, x: Tensor) -> None:
        """Tested after a random change: a layer before one that is zero has no gradient."""
        rng = torch.Generator().manual_seed(3)
        moved = {k: v + 0.1 * torch.randn(v.shape, generator=rng) for k, v in fresh(model).items()}
        slope = grad(lambda params: model.apply(params, x).square().sum())(moved)
        assert all(value.abs().sum() > 0 for value in slope.values())

    def test_ignores_the_parameters_of_its_learner(self, model: Model, x: Tensor) -> None:
        params = fresh(model)
        beside = {"head.scale": torch.ones(1), "prototype.weight": torch.ones(2, 3)}
        assert torch.equal(model.apply(params | beside, x), model.apply(params, x))

    def test_can_be_mapped_over_parameters(self, model: Model, exact_x: Tensor) -> None:
        lanes = [exact(model, seed) for seed in range(3)]
        stacked = {key: torch.stack([lane[key] for lane in lanes]) for key in lanes[0]}
        mapped = vmap(model.apply, in_dims=(0, None))(stacked, exact_x)
        assert_close(mapped, torch.stack([model.apply(lane, exact_x) for lane in lanes]))

    def test_its_gradient_is_that_of_finite_differences(
        self, model: Model, exact_x: Tensor
    ) -> None:
        params = exact(model)

        def loss(params: Params) -> Tensor:
            return model.apply(params, exact_x).square().mean()

        slope, rng = grad(loss)(params), torch.Generator().manual_seed(5)
        way = {k: torch.randn(v.shape, generator=rng).double() for k, v in params.items()}
        ahead, behind = (
            loss({k: v + step * way[k] for k, v in params.items()}) for step in (1e-6, -1e-6)
        )
        along = torch.stack([(slope[k] * way[k]).sum() for k in params]).sum()
        assert_close((ahead - behind) / 2e-6, along, rtol=1e-5, atol=1e-7)

    def test_zeros_have_finite_outputs_and_gradients(self, model: Model, x: Tensor) -> None:
        slope = grad(lambda p: model.apply(p, torch.zeros_like(x)).square().sum())(fresh(model))
        assert all(value.isfinite().all() for value in slope.values())
