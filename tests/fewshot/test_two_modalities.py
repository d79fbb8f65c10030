"""Examples with an image and a text: what supports show, and queries do not."""

from functools import partial

import pytest
import torch
from torch.testing import assert_close

from fewshot.conformance.two_modalities import TwoModalityLaws
from fewshot.errors.inputs import InputError
from fewshot.learners.metric.modal_protonet import MODAL_TEXT, ModalProtoNet, fused
from fewshot.models.pretrained.text_tower import embed_texts, save_pretrained
from fewshot.models.two_towers import TwoTowers
from fewshot.tasks.pictures import images
from fewshot.tasks.two_modalities import named_glyphs
from fewshot.tasks.two_modalities.text_features import hashed
from tests.fewshot import pictures, tiny_transformer, tiny_vision


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def drawings(made_once):
    """The folder of a few drawings of characters."""
    small = partial(named_glyphs.load, per_character=2, text_width=16)
    return made_once("named_glyphs", lambda folder: small(cache=folder))


def told(folder):
    """Pictures with titles, of which one class has none."""
    pictures.titles(pictures.save(folder), without=("kind_1",))
    return folder


class TestPicturesWithTitles(TwoModalityLaws):
    @pytest.fixture
    def load(self, tmp_path):
        told(tmp_path / "pictures")
        return partial(
            images.load,
            path=str(tmp_path / "pictures"),
            size=8,
            text="titles.csv",
            text_width=16,
        )


class TestPicturesWhoseQueriesShowTheirTitles(TwoModalityLaws):
    @pytest.fixture
    def load(self, tmp_path):
        told(tmp_path / "pictures")
        options = {"size": 8, "text": "titles.csv", "query": "both"}
        return partial(images.load, path=str(tmp_path / "pictures"), **options)


class TestNamedGlyphs(TwoModalityLaws):
    @pytest.fixture
    def load(self, drawings, tmp_path):
        def loaded(*, cache):
            place = drawings if cache == tmp_path else cache
            return named_glyphs.load(cache=place, per_character=2, text_width=16)

        return loaded

    @pytest.fixture
    def dataset(self, load, tmp_path):
        return load(cache=tmp_path)

    # Only from the same cache: drawing again takes seconds.
    def test_is_the_same_each_time_whatever_the_ambient_seed(self, dataset, load, tmp_path):
        torch.manual_seed(7)
        assert torch.equal(load(cache=tmp_path).inputs, dataset.inputs)


class TestTwoTowersOfOneModel(TwoModalityLaws):
    """A user's own CLIP, which embeds images and texts in one space."""

    @pytest.fixture
    def load(self, clip, tmp_path):
        told(tmp_path / "pictures")
        options = {"features": "encoder", "encoder": clip, "text_encoder": clip}
        return partial(images.load, path=str(tmp_path / "pictures"), text="titles.csv", **options)

    def test_both_have_the_width_of_their_common_space(self, dataset):
        assert (dataset.text_width, dataset.inputs.shape[1]) == (24, 24 + 24 + 1)

    def test_texts_are_embedded_as_clip_compares_them(self, clip, tmp_path):
        from transformers import AutoTokenizer, CLIPModel

        model = CLIPModel.from_pretrained(clip).eval()
        tokens = AutoTokenizer.from_pretrained(clip)(
            ["a b", "c"], padding=True, return_tensors="pt"
        )
        with torch.no_grad():
            states = model.text_model(**tokens).pooler_output
            expected = torch.nn.functional.normalize(model.text_projection(states), dim=-1)
        found = embed_texts(["a b", "c"], encoder=clip, cache=tmp_path)
        assert_close(found, expected, atol=1e-3, rtol=0)
        save_pretrained(clip, tmp_path / "alone")
        alone = embed_texts(["a b", "c"], encoder=str(tmp_path / "alone"), cache=tmp_path)
        assert torch.equal(alone, found)


def tiny_clip(place):
    """CLIP of random weights with both processors, whose tokenizer knows the words a to f."""
    tiny_transformer.save(place)
    (place / "config.json").unlink()
    (place / "model.safetensors").unlink()
    return tiny_vision.save(place, "clip")


def test_any_two_encoders_can_be_paired(tmp_path):
    told(tmp_path / "pictures")
    for name in ("vision", "words"):
        (tmp_path / name).mkdir()
    dataset = images.load(
        path=str(tmp_path / "pictures"),
        cache=tmp_path,
        features="encoder",
        encoder=tiny_vision.save(tmp_path / "vision"),
        text="titles.csv",
        text_encoder=tiny_transformer.save(tmp_path / "words"),
    )
    assert (dataset.text_width, dataset.inputs.shape[1]) == (16, 32 + 16 + 1)


def test_characters_are_held_out_not_blocks(drawings):
    columns = named_glyphs.load(cache=drawings, per_character=2, text_width=16).columns
    assert columns.groupby("character")["split"].nunique().max() == 1
    assert (columns.groupby("split")["block"].nunique() == len(named_glyphs.BLOCKS)).all()


def test_permuted_names_are_those_of_other_characters(drawings):
    load = partial(named_glyphs.load, cache=drawings, per_character=2, text_width=16)
    real, permuted = load(), load(permuted=True)
    assert permuted.columns["character"].equals(real.columns["character"])
    assert (permuted.columns["text"] != permuted.columns["character"]).all()
    assert set(permuted.columns["text"]) == set(real.columns["text"])
    image = slice(None, -17)
    assert torch.equal(permuted.inputs[:, image], real.inputs[:, image])


def test_texts_with_common_words_have_similar_features():
    x = hashed(["LETTER E WITH ACUTE", "LETTER E WITH GRAVE", "BLACK CHESS KNIGHT"], 512)
    assert_close(x.norm(dim=1), torch.ones(3))
    assert x[0] @ x[1] > 0.5 > 0.2 > abs(x[0] @ x[2])


def test_a_learner_without_the_weight_of_texts_uses_images_alone():
    model = TwoTowers(features=(9,), text=3, hidden=4, n_out=5)
    learner = ModalProtoNet(model=model, way=2)
    params = learner.init(torch.Generator().manual_seed(0))
    x = torch.randn(4, 9, generator=torch.Generator().manual_seed(1))
    x[:, -1] = 1
    other = x.clone()
    other[:, 5:8] += 1
    y = torch.tensor([0, 0, 1, 1])
    results = [
        learner.predict(learner.fit(params, own, y, {MODAL_TEXT: torch.tensor(w)}), x)
        for w in (0.0, 0.5)
        for own in (x, other)
    ]
    assert torch.equal(results[0], results[1])
    assert not torch.allclose(results[2], results[3])


def test_an_example_without_a_text_is_represented_by_its_image():
    embedded = torch.tensor([[1.0, 2.0, 5.0, 6.0], [1.0, 2.0, 0.0, 0.0]])
    assert_close(fused(embedded, torch.tensor(0.25)), torch.tensor([[2.0, 3.0], [1.0, 2.0]]))


def test_residual_towers_start_at_their_inputs():
    model = TwoTowers(features=(7,), text=3, towers="residual", scale=2.0, spread=1.0)
    x = torch.cat([torch.randn(4, 6), torch.ones(4, 1)], 1)
    params = model.init(torch.Generator().manual_seed(0))
    assert_close(model.apply(params, x), 2 * x[:, :6])


@pytest.mark.parametrize(
    ("options", "places"),
    [
        ({"text": 0}, ["model.text"]),
        ({"text": 8}, ["model.text"]),
        ({"text": 3, "towers": "residual"}, ["model.towers"]),
        ({"text": 3, "hidden": 0, "n_out": 0}, ["model.hidden", "model.n_out"]),
    ],
)
def test_towers_that_do_not_fit_are_refused(options, places):
    with pytest.raises(InputError) as caught:
        TwoTowers(features=(9,), **options)
    assert [detail.path for detail in caught.value.details] == places


def test_a_model_of_one_embedding_is_refused():
    with pytest.raises(InputError, match="two embeddings"):
        ModalProtoNet(model=named_model(5), way=2)


def named_model(n_out):
    from fewshot.models.mlp import MLP

    return MLP(features=(3,), n_out=n_out)


@pytest.mark.parametrize(
    ("options", "places"),
    [
        ({"text_width": 8}, ["text_width"]),
        ({"query": "both"}, ["query"]),
        ({"text": "titles.csv", "query": "text"}, ["query"]),
        ({"text": "titles.csv", "text_width": 8, "text_encoder": "x"}, ["text_width"]),
        ({"text": "titles.csv", "text_width": 0, "query": 1}, ["text_width", "query"]),
        ({"text": "titles.csv", "size": None}, ["size"]),
    ],
)
def test_options_that_do_not_fit_are_all_told(tmp_path, options, places):
    told(tmp_path / "pictures")
    with pytest.raises(InputError) as caught:
        images.load(path=str(tmp_path / "pictures"), cache=tmp_path, **{"size": 8, **options})
    assert [d.path.removeprefix("images.") for d in caught.value.details] == places
