"""Embeddings that depend only on the image, computed once."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from fewshot.errors.inputs import InputError
from fewshot.models.pretrained import vision
from fewshot.models.pretrained.vision import embed_images
from fewshot.tasks.pictures.images import load
from tests.fewshot import tiny_transformer, tiny_vision
from tests.rounding import rounding
from trials.data.disjoint import identities

KEPT = rounding(1, torch.float16)


@pytest.fixture(scope="module")
def vit(tmp_path_factory) -> str:
    return tiny_vision.save(tmp_path_factory.mktemp("vit"))


def photos(n=5, seed=0):
    rng = np.random.default_rng(seed)
    return [
        Image.fromarray(rng.integers(0, 256, (20 + 3 * i, 40 - i, 3), dtype=np.uint8))
        for i in range(n)
    ]


def embed(images, encoder, cache):
    digests = [image.tobytes() for image in images]
    return embed_images(digests, images.__getitem__, encoder=encoder, cache=cache)


@pytest.mark.parametrize("kind", tiny_vision.KINDS)
class TestKinds:
    @pytest.fixture
    def encoder(self, kind, tmp_path) -> str:
        return tiny_vision.save(tmp_path / "model", kind)

    def test_vectors_have_length_one_and_depend_on_the_image(self, encoder, kind, tmp_path):
        vectors = embed(photos(), encoder, tmp_path)
        assert vectors.shape == (5, 24 if kind == "clip" else 32)
        assert vectors.dtype == torch.float32
        assert_close(vectors.norm(dim=1), torch.ones(5), atol=KEPT, rtol=0)
        assert torch.cdist(vectors, vectors).fill_diagonal_(1).min() > 4 * KEPT

    def test_what_is_saved_gives_the_same_vectors(self, encoder, tmp_path):
        vision.save_pretrained(encoder, tmp_path / "saved")
        assert vision.reads_images(str(tmp_path / "saved"))
        saved = embed(photos(), str(tmp_path / "saved"), tmp_path)
        assert_close(saved, embed(photos(), encoder, tmp_path), atol=KEPT, rtol=0)


def test_the_vector_of_a_vit_is_its_class_token(vit, tmp_path):
    from transformers import AutoImageProcessor, AutoModel

    pixels = AutoImageProcessor.from_pretrained(vit)(images=photos(), return_tensors="pt")
    tokens = AutoModel.from_pretrained(vit)(**pixels).last_hidden_state
    expected = torch.nn.functional.normalize(tokens[:, 0], dim=1).detach()
    assert_close(embed(photos(), vit, tmp_path), expected, atol=KEPT, rtol=0)


def test_a_vector_does_not_depend_on_the_images_beside_it(vit, tmp_path):
    together = embed(photos(), vit, tmp_path)
    alone = torch.cat([embed([image], vit, tmp_path) for image in photos()])
    assert_close(together, alone, atol=KEPT, rtol=0)


def test_equal_images_are_embedded_once(vit, tmp_path):
    images = photos(3)
    opened = []
    vectors = embed_images(
        [b"a", b"b", b"a", b"b"],
        lambda i: opened.append(i) or images[i],
        encoder=vit,
        cache=tmp_path,
    )
    assert opened == [0, 1]
    assert torch.equal(vectors[:2], vectors[2:])


def test_the_second_call_needs_no_transformers(vit, tmp_path, monkeypatch):
    first = embed(photos(), vit, tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert torch.equal(embed(photos(), vit, tmp_path), first)
    with pytest.raises(ImportError):
        embed(photos(seed=1), vit, tmp_path)


def test_a_text_model_is_refused(tmp_path):
    (tmp_path / "bert").mkdir()
    encoder = tiny_transformer.save(tmp_path / "bert")
    with pytest.raises(InputError, match="that transformers can load"):
        embed(photos(), encoder, tmp_path)


class TestDatasets:
    @pytest.fixture
    def folder(self, tmp_path):
        for i, image in enumerate(photos(6)):
            (tmp_path / "in" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
            image.save(tmp_path / "in" / "ab"[i % 2] / f"{i}.png")
        photos(1)[0].convert("L").save(tmp_path / "in" / "a" / "grey.jpg")
        return tmp_path / "in"

    def test_a_folder_of_any_sizes_and_modes_is_embedded(self, folder, vit, tmp_path):
        dataset = load(path=str(folder), cache=tmp_path, features="encoder", encoder=vit)
        assert dataset.inputs.shape == (7, 32)
        assert list(dataset.columns["label"]) == [*"aaaabbb"]
        first = embed(photos(1), vit, tmp_path)[0]
        assert_close(dataset.inputs[0], first, atol=KEPT, rtol=0)

    @pytest.mark.parametrize("shape", [(4, 9, 9), (4, 9, 9, 3), (4, 3, 3, 3)])
    def test_an_archive_is_embedded(self, shape, vit, tmp_path):
        images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        np.savez(tmp_path / "a.npz", images=images, label=np.arange(4))
        options = {"features": "encoder", "encoder": vit}
        dataset = load(path=str(tmp_path / "a.npz"), cache=tmp_path, **options)
        assert dataset.inputs.shape == (4, 32)
        alone = embed([Image.fromarray(images[2])], vit, tmp_path)
        assert_close(dataset.inputs[2:3], alone, atol=KEPT, rtol=0)

    def test_the_same_file_in_two_folders_is_the_same_example(self, folder, vit, tmp_path):
        (tmp_path / "other" / "c").mkdir(parents=True)
        twin = tmp_path / "other" / "c" / "twin.png"
        twin.write_bytes((folder / "a" / "2.png").read_bytes())
        options = {"cache": tmp_path, "features": "encoder", "encoder": vit}
        both = [load(path=str(place), **options) for place in (folder, tmp_path / "other")]
        hashes = identities(both)
        assert list(hashes[:-1] == hashes[-1]) == [False, True, *[False] * 5]

    def test_a_damaged_file_is_named(self, folder, vit, tmp_path):
        file = folder / "b" / "1.png"
        file.write_bytes(file.read_bytes()[:100])
        with pytest.raises(InputError, match=r"1\.png: must be an image that can be read"):
            load(path=str(folder), cache=tmp_path, features="encoder", encoder=vit)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"features": "encoder"}, r"images\.encoder: must be set with"),
            ({"encoder": "x"}, r"images\.encoder: must be set with"),
            ({"features": "tokens"}, r"images\.features: must be pixels or encoder"),
            ({"features": "encoder", "encoder": "x", "size": 9}, r"images\.size: can't be set"),
        ],
    )
    def test_a_wrong_option_is_refused(self, folder, tmp_path, options, message):
        with pytest.raises(InputError, match=message):
            load(path=str(folder), cache=tmp_path, **options)
