"""Models are pure functions of their parameters."""

import warnings
from functools import partial

import pytest
import torch
from torch.func import grad, vmap
from torch.nn.functional import conv2d, max_pool2d
from torch.testing import assert_close

from fewshot.conformance.models import ModelLaws, exact, fresh
from fewshot.errors.inputs import InputError
from fewshot.models.bag import Bag
from fewshot.models.convolution import blocks as conv_blocks
from fewshot.models.convolution.conv import Conv
from fewshot.models.convolution.winograd import Winograd
from fewshot.models.mlp import MLP
from fewshot.models.models import MODELS
from fewshot.models.residual import Residual
from fewshot.models.untrained import Untrained

_rng = torch.Generator().manual_seed(0)
# Each model with options, and a batch of 6 examples for it.
CASES = {
    "mlp": (
        {"features": (2, 3), "hidden": (7, 5), "n_out": 4},
        torch.randn(6, 2, 3, generator=_rng),
    ),
    "conv": (
        {"features": (8, 9), "width": 5, "blocks": 2, "n_out": 4},
        torch.randn(6, 8, 9, generator=_rng),
    ),
    "bag": (
        {"features": (9,), "n_ids": 40, "width": 5, "n_out": 4},
        torch.randint(40, (6, 9), generator=_rng),
    ),
    "residual": ({"features": (2, 3), "hidden": 4}, torch.randn(6, 2, 3, generator=_rng)),
    "two_towers": (
        {"features": (8,), "text": 3, "hidden": 5, "n_out": 4},
        torch.cat([torch.randn(6, 7, generator=_rng), torch.ones(6, 1)], 1),
    ),
    "resnet12": (
        {"features": (3, 8, 9), "widths": (4, 6), "n_out": 5},
        torch.randn(6, 3, 8, 9, generator=_rng),
    ),
}
NORMALISED = {
    "conv": {"features": (3, 8, 9), "width": 4, "blocks": 2, "n_out": 5},
    "resnet12": CASES["resnet12"][0],
}


def test_every_model_is_tried():
    # Pretrained models have files of their own, and the untrained model no parameters to test.
    assert CASES.keys() | {"lora", "transformer", "untrained"} == MODELS.keys()


@pytest.mark.parametrize(
    "tried",
    [(MODELS[name](**options), x) for name, (options, x) in CASES.items()],
    ids=CASES,
)
class TestEveryModel(ModelLaws):
    pass


@pytest.mark.parametrize(
    "tried",
    [(Conv(**NORMALISED["conv"], norm="group"), CASES["resnet12"][1])],
    ids=["conv"],
)
class TestGroupNorm(ModelLaws):
    pass


@pytest.mark.parametrize(
    "tried",
    [
        (MODELS[name](**options, norm="batch"), CASES["resnet12"][1])
        for name, options in NORMALISED.items()
    ],
    ids=NORMALISED,
)
class TestBatchNorm(ModelLaws):
    def test_looks_at_each_example_alone(self, model, exact_x):
        """Batch statistics are the exception: each example changes the others' outputs."""
        params = exact(model)
        alone = torch.cat([model.apply(params, row[None]) for row in exact_x])
        assert (model.apply(params, exact_x) - alone).abs().max() > 0.01


class TestResNet12:
    @pytest.mark.parametrize("norm", ["group", "batch"])
    def test_is_the_network_of_torch_layers(self, norm):
        model = MODELS["resnet12"](**CASES["resnet12"][0], norm=norm)
        rng = torch.Generator().manual_seed(2)
        params = {
            name: value + 0.2 * torch.randn(value.shape, generator=rng, dtype=value.dtype)
            for name, value in exact(model).items()
        }
        x = CASES["resnet12"][1].double()
        found = model.apply(params, x)

        def normalised(x, name):
            n = x.shape[1]
            groups = {4: 4, 6: 2}[n]
            of = torch.nn.GroupNorm(groups, n) if norm == "group" else torch.nn.BatchNorm2d(n)
            layer = of.double()
            layer.weight.data, layer.bias.data = params[f"{name}.gain"], params[f"{name}.shift"]
            return layer(x)

        for block in ("block0", "block1"):
            h = x
            for layer in range(3):
                h = conv2d(h, params[f"{block}.conv{layer}"], padding=1)
                h = normalised(h, f"{block}.norm{layer}")
                if layer == 2:
                    shortcut = conv2d(x, params[f"{block}.shortcut"])
                    h = h + normalised(shortcut, f"{block}.norm_shortcut")
                h = torch.nn.LeakyReLU(0.1)(h)
            x = max_pool2d(h, 2)
        expected = x.mean((2, 3)) @ params["weight"] + params["bias"]
        assert_close(found, expected)

    def test_has_the_published_size(self):
        params = fresh(MODELS["resnet12"](features=(3, 84, 84)))
        published = 12_424_320  # convolutions and normalisation of MetaOptNet's network
        assert sum(v.numel() for k, v in params.items() if k not in ("weight", "bias")) == published

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"features": (3, 8, 8)}, "at least 16 pixels a side"),
            ({"features": (3, 32, 32), "widths": [64, 0]}, r"model\.widths"),
            ({"features": (3, 32, 32), "norm": "layer"}, r"model\.norm: must be group or batch"),
        ],
    )
    def test_a_wrong_option_is_refused(self, options, message):
        with pytest.raises(InputError, match=message):
            MODELS["resnet12"](**options)


class TestResidual:
    def test_starts_as_the_features_at_the_scale_that_is_asked_for(self):
        model = Residual(features=(5,), hidden=3, scale=4.0, spread=2.0)
        x = torch.randn(7, 5, generator=_rng)
        assert model.n_out == 5
        assert torch.equal(model.apply(fresh(model), x), 2 * x)

    def test_learns_from_the_first_step_on(self):
        model, x = Residual(features=(5,)), torch.randn(7, 5, generator=_rng)
        slope = grad(lambda params: model.apply(params, x).pow(3).sum())(fresh(model))
        assert slope["up"].abs().sum() > 0

    @pytest.mark.parametrize(("option", "value"), [("hidden", 0), ("scale", 0.0), ("scale", -1.0)])
    def test_refuses_what_is_out_of_range(self, option, value):
        with pytest.raises(InputError) as caught:
            Residual(features=(5,), **{option: value})
        assert caught.value.details[0].path == f"model.{option}"


class TestUntrained:
    def test_embeds_an_example_as_itself(self):
        model, x = Untrained(features=(2, 3)), torch.randn(6, 2, 3, generator=_rng)
        assert model.n_out == 6
        assert model.init(torch.Generator()) == {}
        assert torch.equal(model.apply({}, x), x.flatten(1))


class TestMLP:
    def test_without_hidden_layers_is_linear(self):
        model = MLP(features=(3,), hidden=(), n_out=2)
        params = fresh(model)
        x = torch.randn(5, 3, generator=_rng)
        assert_close(model.apply(params, x), x @ params["weight0"] + params["bias0"])

    def test_is_layers_with_relu_between_them(self):
        model = MLP(features=(3,), hidden=(8, 6), n_out=2)
        params = exact(model)
        layers = [torch.nn.Linear(*sizes) for sizes in ((3, 8), (8, 6), (6, 2))]
        for i, layer in enumerate(layers):
            layer.weight.data = params[f"weight{i}"].T
            layer.bias.data = params[f"bias{i}"]
        parts = [layers[0], torch.nn.ReLU(), layers[1], torch.nn.ReLU(), layers[2]]
        x = torch.randn(20, 3, generator=_rng).double()
        assert_close(model.apply(params, x), torch.nn.Sequential(*parts)(x))

    def test_begins_as_torch_does(self):
        weight = fresh(MLP(features=(400,), hidden=(), n_out=50))["weight0"]
        bound = 400**-0.5
        assert weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)


class TestBag:
    @pytest.fixture
    def model(self):
        return Bag(features=(5,), n_ids=30, width=4, n_out=3)

    def test_does_not_see_padding(self, model):
        params = fresh(model)
        short = torch.tensor([[4, 7, 7]])
        padded = torch.tensor([[4, 0, 7, 7, 0, 0]])
        assert_close(model.apply(params, short), model.apply(params, padded))

    def test_does_not_see_order(self, model):
        params = fresh(model)
        a, b = torch.tensor([[1, 2, 3]]), torch.tensor([[3, 1, 2]])
        assert_close(model.apply(params, a), model.apply(params, b))

    def test_is_the_mean_embedding_in_a_linear_layer(self, model):
        params = fresh(model)
        mean = params["embedding"][torch.tensor([4, 7, 7])].mean(0)
        expected = mean @ params["weight"] + params["bias"]
        assert_close(model.apply(params, torch.tensor([[4, 7, 7, 0]]))[0], expected)

    def test_of_nothing_is_the_bias(self, model):
        params = fresh(model)
        assert_close(model.apply(params, torch.zeros(1, 5).long())[0], params["bias"])


CACHED = (1, 9000, 1 << 19)  # of some 19,000 outputs of the first block


def torch_block(x, kernel, shift):
    return max_pool2d(conv2d(x, kernel, shift, padding=1).relu(), 2)


def stacked(lanes):
    return {name: torch.stack([params[name] for params in lanes]) for name in lanes[0]}


def by_torch(model, params, x):
    x = x.view(len(x), -1, *x.shape[-2:])
    for i in range(3):
        x = torch_block(x, params[f"kernel{i}"], params[f"shift{i}"])
    return x.flatten(1) @ params["weight"] + params["bias"]


def charge(slopes):
    return sum(slope.square().sum() for slope in slopes)


class TestConv:
    @pytest.mark.parametrize("features", [(9, 8), (2, 9, 8)])
    def test_is_blocks_of_torch_then_a_linear_layer(self, features):
        model = Conv(features=features, width=4, blocks=2, n_out=3)
        params = exact(model)
        channels = 1 if len(features) == 2 else features[0]
        parts = []
        for i, n_in in enumerate((channels, 4)):
            params[f"shift{i}"] = torch.randn(4, generator=_rng).double()
            layer = torch.nn.Conv2d(n_in, 4, 3, padding=1)
            layer.weight.data, layer.bias.data = params[f"kernel{i}"], params[f"shift{i}"]
            parts += [layer, torch.nn.ReLU(), torch.nn.MaxPool2d(2)]
        linear = torch.nn.Linear(4 * 2 * 2, 3)
        linear.weight.data, linear.bias.data = params["weight"].T, params["bias"]
        x = torch.randn(5, *features, generator=_rng).double()
        whole = torch.nn.Sequential(*parts, torch.nn.Flatten(), linear)
        assert_close(model.apply(params, x), whole(x.view(5, channels, 9, 8)))

    # Small images alone; large ones too, pooled one at a time, some, or all.
    @pytest.mark.parametrize(("sides", "cached"), [((9, 8), 1), *(((34, 18), n) for n in CACHED)])
    def test_first_and_second_derivatives_are_those_of_torch(self, sides, cached, monkeypatch):
        monkeypatch.setattr(conv_blocks, "_CACHED", cached)
        model = Conv(features=sides, width=8, blocks=3, n_out=3)
        x = torch.randn(5, *sides, generator=_rng).double()
        found = []
        for apply in (model.apply, partial(by_torch, model)):
            params = {k: value.double().requires_grad_() for k, value in fresh(model).items()}

            def loss(params, apply=apply):
                return apply(params, x).square().sum()

            first = torch.autograd.grad(loss(params), params.values(), create_graph=True)
            second = torch.autograd.grad(charge(first), params.values())
            mapped = grad(lambda p, loss=loss: charge(grad(loss)(p).values()))(params)
            found.append([*first, *second, *mapped.values()])
        assert_close(*found)

    @pytest.mark.parametrize("way", ["narrow", "wide", "mapped"])
    @pytest.mark.parametrize("sides", [(8, 8), (7, 10), (3, 2), (5, 5)])
    def test_a_block_of_matrices_and_its_derivatives_are_torchs(self, way, sides):
        shapes = (3, 2, *sides), (4, 2, 3, 3), (4,)
        x, kernel, shift = (torch.randn(s, generator=_rng).double() for s in shapes)
        block, layout = {
            "narrow": (conv_blocks.narrow_block, (2, 3, 0, 1)),
            "wide": (partial(conv_blocks.wide_block, Winograd(*sides)), (2, 3, 0, 1)),
            "mapped": (conv_blocks.mapped_block, (0, 2, 3, 1)),
        }[way]
        back = [layout.index(i) for i in range(4)]
        inputs = [value.requires_grad_() for value in (x, kernel, shift)]
        ours = block(x.permute(layout), kernel, shift).permute(back)
        found = []
        for out in (ours, torch_block(x, kernel, shift)):
            first = torch.autograd.grad(out.square().sum(), inputs, create_graph=True)
            found.append([out, *first, *torch.autograd.grad(charge(first), inputs)])
        assert_close(*found)

    def test_of_equal_pixels_one_has_the_gradient(self):
        """As in PyTorch's pooling, though not the same one."""
        x = torch.ones(4, 4, 1, 1).double()
        kernel, shift = torch.zeros(8, 1, 3, 3).double(), torch.ones(8).double()
        kernel[:, :, 1, 1] = 1
        for block in (conv_blocks.narrow_block, partial(conv_blocks.wide_block, Winograd(4, 4))):
            found = torch.autograd.grad(block(x, kernel.requires_grad_(), shift).sum(), kernel)[0]
            assert_close(found[:, 0, 1, 1], torch.full((8,), 4.0).double())

    @pytest.mark.parametrize("features", [(9, 8), (2, 8, 9), (34, 18)])
    def test_all_ways_are_the_same(self, features):
        model = Conv(features=features, width=8, blocks=2, n_out=3)
        lanes = [exact(model, seed) for seed in range(3)]
        x = torch.randn(3, 5, *features, generator=_rng).double()
        found = torch.stack(list(map(model.by_library, lanes, x)))
        for way in (model.apply, model.by_windows, model.by_caches):
            assert_close(vmap(way)(stacked(lanes), x), found)

    def test_on_a_gpu_windows_are_for_what_is_mapped(self, monkeypatch):
        model, ways = Conv(features=(8, 8), width=4, blocks=2, n_out=3), []
        for way in ("by_windows", "by_library"):
            own = getattr(model, way)
            monkeypatch.setattr(
                model, way, lambda p, x, way=way, own=own: ways.append(way) or own(p, x)
            )
        params = {key: value.to("meta") for key, value in fresh(model).items()}
        x = torch.empty(2, 5, 8, 8, device="meta")

        def loss(params, x):
            return model.apply(params, x).sum()

        loss(params, x[0])
        grad(loss)(params, x[0])
        vmap(loss, in_dims=(None, 0))(params, x)
        grad(lambda p: vmap(loss, in_dims=(None, 0))(p, x).sum())(params)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of a gradient that is not mapped, but a loop
            vmap(grad(loss), in_dims=(None, 0))(params, x)
        assert ways == [*["by_library"] * 2, *["by_windows"] * 2, "by_library"]

    @pytest.mark.parametrize("features", [(6,), (7, 28), (1, 28, 28, 28)])
    def test_needs_images_that_last(self, features):
        with pytest.raises(InputError, match="at least 8 pixels a side"):
            Conv(features=features, blocks=3)


@pytest.mark.parametrize(
    ("made", "wrong", "paths"),
    [
        (MLP, {"hidden": [16, 0], "n_out": 0}, ["hidden", "n_out"]),
        (MLP, {"hidden": [[16], 32]}, ["hidden"]),
        (MLP, {"hidden": 32}, ["hidden"]),
        (Bag, {"width": 0, "n_ids": 1.5}, ["n_ids", "width"]),
        (Conv, {"width": "x", "blocks": 0}, ["width", "blocks"]),
        (Residual, {"hidden": True}, ["hidden"]),
    ],
)
def test_sizes_of_layers_are_whole_numbers(made, wrong, paths):
    with pytest.raises(InputError) as caught:
        made(features=(16, 16), **wrong)
    assert [told.path for told in caught.value.details] == [f"model.{name}" for name in paths]
