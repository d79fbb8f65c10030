"""Low-rank additions to a frozen transformer."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from fewshot.conformance.models import ModelLaws, exact, fresh
from fewshot.errors.inputs import InputError
from fewshot.models.pretrained import hidden_states, token_batches
from fewshot.models.pretrained.adapters import lora
from fewshot.models.pretrained.adapters.lora import DOWN, RANK, UP, Lora, with_rank
from fewshot.models.pretrained.encoder import embed, tokenize
from fewshot.models.pretrained.hidden_states import HiddenStates
from fewshot.models.pretrained.token_batches import token_counts
from tests.fewshot import tiny_transformer, tiny_vision

TEXTS = ["b", "a b c d e f", "a", "f e d c", "a b c", "c c c b", "a b", "d e"]
HALF = 2e-3  # relative rounding of hidden states, kept in half precision, after two layers


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> str:
    return tiny_transformer.save(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def ids(tiny, tmp_path_factory) -> torch.Tensor:
    return tokenize(TEXTS, encoder=tiny, cache=tmp_path_factory.mktemp("cache"), max_length=12)


def made(tiny, **options) -> Lora:
    return Lora(features=(12,), encoder=tiny, **{"layers": 1, "rank": 3} | options)


def moved(model, lanes):
    """Parameters of several lanes in float64, none of them zero."""
    rng = torch.Generator().manual_seed(3)
    apart = [exact(model, seed) for seed in range(lanes)]
    apart = [
        {k: v + 0.3 * torch.randn(v.shape, generator=rng, dtype=v.dtype) for k, v in p.items()}
        for p in apart
    ]
    return {name: torch.stack([p[name] for p in apart]) for name in apart[0]}


class TestAnEmbedding(ModelLaws):
    @pytest.fixture
    def tried(self, tiny, ids):
        return made(tiny), ids[:4]


class TestAClassifier(ModelLaws):
    @pytest.fixture
    def tried(self, tiny, ids):
        return made(tiny, n_out=3, layers=2, targets=["dense"]), ids[:4]

    def test_declares_its_last_layer(self, tiny, ids):
        model = made(tiny, n_out=3)
        assert model.head == ("head.weight", "head.bias")
        outputs = model.apply(fresh(model), ids)
        assert torch.equal(outputs, torch.zeros_like(outputs))


def test_without_training_it_is_the_encoder(tiny, ids, tmp_path):
    model = made(tiny, scale=3.0, spread=0.5)
    embedded = embed(TEXTS, encoder=tiny, cache=tmp_path, max_length=12)
    assert_close(model.apply(fresh(model), ids), 6 * embedded, rtol=0, atol=6 * HALF)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("n_out", [None, 3])
def test_lanes_together_are_lanes_alone(tiny, ids, layers, n_out):
    """Outputs and gradients: to rounding if hidden states are the same ones."""
    model = made(tiny, layers=layers, n_out=n_out)
    stacked = moved(model, 3)
    x = torch.stack([ids[:5], ids[1:6], ids[3:]])

    def slopes(params, x):
        own = {name: value.requires_grad_() for name, value in params.items()}
        outputs = model.apply_to_lanes(own, x)
        return outputs, torch.autograd.grad(outputs.pow(3).sum(), list(own.values()))

    together, found = slopes(stacked, x)
    assert together.shape == (3, 5, model.n_out)
    for lane in range(3):
        params = {name: value[lane : lane + 1].detach() for name, value in stacked.items()}
        alone, expected = slopes(params, x[lane : lane + 1])
        assert_close(together[lane : lane + 1], alone)
        for one, other in zip(found, expected, strict=True):
            assert_close(one[lane : lane + 1], other)
        single = {name: value[0].detach() for name, value in params.items()}
        assert_close(alone[0], model.apply(single, x[lane]), rtol=HALF, atol=10 * HALF)


def test_the_measured_spread_changes_only_initial_parameters(tiny, ids):
    """A model is exported without it."""
    for n_out in (None, 3):
        models = [made(tiny, spread=spread, n_out=n_out) for spread in (1.0, 0.2)]
        params = models[0].init(torch.Generator().manual_seed(0))
        params = {name: value + 0.1 for name, value in params.items()}
        assert_close(*(model.apply(params, ids) for model in models))


def test_lanes_can_share_their_examples(tiny, ids):
    model = made(tiny)
    stacked = moved(model, 2)
    assert_close(
        model.apply_to_lanes(stacked, ids[None]),
        model.apply_to_lanes(stacked, ids.expand(2, -1, -1)),
    )


class TestASearchedRank:
    def test_leaves_the_rest_untrained(self, tiny, ids):
        model = made(tiny, rank=4)
        params = with_rank(fresh(model), {RANK: 2.4})
        moved = {name: value.clone().requires_grad_() for name, value in params.items()}
        optimizer = torch.optim.AdamW(moved.values(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            model.apply(moved, ids).pow(3).sum().backward()
            optimizer.step()
        for name, value in moved.items():
            if name.endswith(DOWN):
                assert value[:2].ne(params[name][:2]).all()
                assert value[2:].eq(0).all()
            if name.endswith(UP):
                assert value[:, :2].ne(0).any()
                assert value[:, 2:].eq(0).all()

    def test_is_the_model_of_that_rank(self, tiny, ids):
        """The scale alpha / rank is that of the smaller rank."""
        large, small = made(tiny, rank=4), made(tiny, rank=2)
        rng = torch.Generator().manual_seed(1)
        params = {
            name: torch.randn(value.shape, generator=rng) for name, value in fresh(small).items()
        }
        padded = with_rank(fresh(large), {RANK: 2})
        for name, value in params.items():
            rows = padded[name] = padded[name].clone()
            rows[tuple(slice(n) for n in value.shape)] = value
        assert_close(large.apply(padded, ids), small.apply(params, ids))
        stacked = {name: torch.stack([value, value]) for name, value in padded.items()}
        both = large.apply_to_lanes(stacked, ids[None])
        assert_close(
            both[0], small.apply_to_lanes({k: v[None] for k, v in params.items()}, ids[None])[0]
        )
        assert torch.equal(both[0], both[1])


def test_batches_have_texts_of_similar_length():
    lengths = torch.tensor([3, 60, 4, 61, 10, 200, 3])
    batches = token_batches.similar_lengths(lengths)
    assert sorted(torch.cat(batches).tolist()) == list(range(7))
    many = torch.arange(1, 65).repeat(50)
    for rows in token_batches.similar_lengths(many):
        padded = len(rows) * int(many[rows].max())
        assert many[rows].sum() >= min(0.5 * padded, padded - 4 * len(rows))
        assert many[rows].sum() >= token_batches._FEWEST


class TestHiddenStates:
    def test_are_computed_once(self, tiny, ids, tmp_path, monkeypatch):
        lora._frozen.cache_clear()
        model = made(tiny)
        model.cache_states(ids, tmp_path)
        (file,) = tmp_path.glob("hidden-*.safetensors")
        assert load_file(file)["states"].dtype == torch.float16
        outputs = model.apply_to_lanes(moved(model, 1), ids[None])
        lora._frozen.cache_clear()
        again = made(tiny)
        monkeypatch.setattr(again._encoder, "below", None)
        monkeypatch.setattr(again._states, "_compute", None)
        again.cache_states(ids, tmp_path)
        assert torch.equal(again.apply_to_lanes(moved(again, 1), ids[None]), outputs)

    def test_of_a_damaged_file_are_computed_again(self, tiny, ids, tmp_path):
        lora._frozen.cache_clear()
        made(tiny).cache_states(ids, tmp_path)
        (file,) = tmp_path.glob("hidden-*.safetensors")
        whole = file.read_bytes()
        file.unlink()  # the old file is mapped into memory
        file.write_bytes(whole[:-50])
        lora._frozen.cache_clear()
        made(tiny).cache_states(ids, tmp_path)
        assert load_file(file)["keys"].shape == (len(TEXTS),)

    def test_of_an_unknown_text_are_added(self):
        asked = []

        def compute(ids):
            asked.append(len(ids))
            return ids.unsqueeze(-1).expand(-1, -1, 2).float()

        store = HiddenStates(compute, lambda ids: token_counts(ids, 0), width=2)
        one = torch.tensor([[5, 6, 0, 0], [7, 0, 0, 0], [5, 6, 0, 0]])
        starts, lengths = store.find(one)
        assert lengths.tolist() == [2, 1, 2]
        assert starts[0] == starts[2]
        two = torch.tensor([[7, 0, 0, 0], [1, 2, 3, 4], [5, 6, 0, 0]])
        states, real = store.gather(*store.find(two), 4)
        assert torch.equal(torch.where(real, states[..., 0].long(), 0), two)
        assert asked == [2, 1]

    def test_hashes_tell_texts_apart(self):
        rng = torch.Generator().manual_seed(0)
        ids = torch.randint(0, 4, (20_000, 9), generator=rng).unique(dim=0)
        assert len(hidden_states._hashes(ids).unique()) == len(ids)
        swapped = torch.tensor([[1, 2], [2, 1], [3, 0], [0, 3]])
        assert len(hidden_states._hashes(swapped).unique()) == 4


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"layers": 0}, "model.layers"),
        ({"layers": 9}, "model.layers"),
        ({"targets": ["nothing"]}, "model.targets"),
        ({"targets": []}, "model.targets"),
        ({"rank": 0}, "model.rank"),
        ({"alpha": 0.0}, "model.alpha"),
        ({"scale": -1.0}, "model.scale"),
    ],
)
def test_what_is_out_of_range_is_refused(tiny, options, path):
    with pytest.raises(InputError) as caught:
        made(tiny, **options)
    assert caught.value.details[0].path == path


def test_other_inputs_are_refused(tiny, vit):
    with pytest.raises(InputError, match="token ids"):
        Lora(features=(3, 4), encoder=tiny)
    with pytest.raises(InputError, match="pixels"):
        Lora(features=(12,), encoder=vit)


@pytest.fixture(scope="module")
def vit(tmp_path_factory) -> str:
    return tiny_vision.save(tmp_path_factory.mktemp("vit"))


def photos(n=5, *shape):
    return torch.rand(n, *(shape or (3, 32, 32)), generator=torch.Generator().manual_seed(2))


class TestImages(ModelLaws):
    @pytest.fixture
    def tried(self, vit):
        return Lora(features=(3, 32, 32), encoder=vit, layers=1, rank=2), photos()

    @pytest.mark.parametrize(
        ("kind", "processed"),
        [
            ("vit", {}),
            ("dinov2", {}),
            ("vit", {"do_normalize": False, "image_mean": None, "image_std": None}),
            ("vit", {"do_rescale": False}),
            ("vit", {"rescale_factor": 1 / 127.5}),
            ("vit", {"do_center_crop": False, "crop_size": {"height": 8, "width": 8}}),
        ],
    )
    def test_without_training_it_is_the_class_token(self, kind, processed, tmp_path):
        from transformers import AutoImageProcessor, AutoModel

        encoder = tiny_vision.save(tmp_path, kind)
        config = Path(encoder) / "preprocessor_config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | processed))
        model = Lora(features=(3, 32, 32), encoder=encoder, scale=2.0)
        processor = AutoImageProcessor.from_pretrained(encoder)
        whole = (255 * photos()).byte()
        pixels = processor(images=list(whole), return_tensors="pt")
        with torch.no_grad():
            hidden = AutoModel.from_pretrained(encoder).eval()(**pixels).last_hidden_state
        expected = 2 * torch.nn.functional.normalize(hidden[:, 0], dim=-1)
        assert_close(model.apply(fresh(model), whole / 255), expected, rtol=0, atol=1e-4)

    def test_lanes_look_the_images_up(self, vit, tmp_path):
        model = Lora(features=(3, 32, 32), encoder=vit, layers=1, rank=2)
        model.cache_states(photos(), tmp_path)
        assert list(tmp_path.glob("hidden-*.safetensors"))
        stacked = moved(model, 2)
        expected = torch.stack(
            [model.apply({k: v[i] for k, v in stacked.items()}, photos()) for i in range(2)]
        )
        found = model.apply_to_lanes(stacked, photos()[None])
        assert_close(found, expected, rtol=HALF, atol=10 * HALF)

    def test_grey_images_of_another_size_are_read(self, vit):
        model = Lora(features=(20, 24), encoder=vit)
        assert model.apply(fresh(model), photos(4, 20, 24)).shape == (4, 32)

    @pytest.mark.parametrize(
        ("wrong", "paths"),
        [
            ({"rank": 0, "alpha": "x", "targets": "query"}, ["rank", "alpha", "targets"]),
            ({"rank": 33}, ["rank"]),
            ({"targets": ["quary"]}, ["targets"]),
            ({"layers": 99}, ["layers"]),
        ],
    )
    def test_wrong_options_are_named(self, wrong, paths, vit):
        with pytest.raises(InputError) as caught:
            Lora(features=(3, 32, 32), encoder=vit, **wrong)
        assert [told.path for told in caught.value.details] == [f"model.{name}" for name in paths]

    def test_an_encoder_without_a_class_token_is_refused(self, tmp_path):
        with pytest.raises(InputError, match="class token"):
            Lora(features=(3, 32, 32), encoder=tiny_vision.save(tmp_path, "convnext"))


def test_a_new_last_layer_at_class_means_predicts_the_nearest_mean(tiny, ids):
    embedding, model = made(tiny), made(tiny, n_out=3)
    params = model.init(torch.Generator().manual_seed(0))
    labels = torch.arange(len(ids)) % 3
    params |= model.head_at_means(params, ids, labels)
    plain = embedding.init(torch.Generator().manual_seed(0))
    found = torch.nn.functional.normalize(embedding.apply(plain, ids), dim=-1)
    means = torch.stack([found[labels == c].mean(0) for c in range(3)])
    distances = torch.cdist(found, means).square()
    logits = model.apply(params, ids)
    assert_close(
        logits - logits[:, :1],
        -(2.5**2) * (distances - distances[:, :1]),
        rtol=0,
        atol=2.5**2 * HALF,
    )
