"""The export of a trained encoder is loaded by PEFT and by transformers."""

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from fewshot.errors.inputs import InputError
from fewshot.models.pretrained.adapters.lora import Lora
from fewshot.models.pretrained.transformer import Transformer
from orchestrator import Search
from orchestrator.cli import app as cli
from orchestrator.config.loading import load_config
from tests.fewshot import tiny_transformer

pytestmark = pytest.mark.slow

TOPICS = ("alpha", "beta", "gamma", "delta", "epsilon")


def texts() -> pd.DataFrame:
    rng = random.Random(0)
    rows = [
        (" ".join(rng.choices("abcdef"[c : c + 3], k=n)), f"{topic} {c}", topic)
        for topic, c, n in itertools.product(TOPICS, range(4), [3, 4, 5, 6, 7])
    ]
    return pd.DataFrame(rows, columns=["text", "label", "topic"])


def config_of(folder: Path, **model: Any) -> dict[str, Any]:
    """A short search that trains the model on an encoder in this folder."""
    (folder / "tiny").mkdir()
    encoder = tiny_transformer.save(folder / "tiny")
    texts().to_csv(folder / "texts.csv", index=False)
    data = {"source": "text", "path": str(folder / "texts.csv"), "features": "tokens"}

    def tasks(*topics):
        return [{"each": {"topic": list(topics)}, "dataset": "texts", "label": "label"}]

    return {
        "name": "tiny",
        "datasets": {"texts": data | {"encoder": encoder, "max_length": 10}},
        "tasks": {
            "overlap": True,
            "train": tasks(*TOPICS[:3]),
            "validation": tasks("delta"),
            "test": tasks("epsilon"),
        },
        "model": {"encoder": encoder} | model,
        "learner": {"name": "protonet"},
        "episodes": {"way": 3, "query": 2, "per_step": 2, "validation": 8, "test": 8},
        "steps": 6,
        "space": {
            "task_weights": {"weights_as": "sampling"},
            "lr/outer": {"low": 0.03, "high": 0.1},
        },
        "search": {"trials": 2, "reference_trials": 1, "finalists": 1, "seeds": 2},
    }


@pytest.fixture(scope="module")
def search(tmp_path_factory) -> Search:
    folder = tmp_path_factory.mktemp("lora")
    config = config_of(folder, name="lora", rank=2, alpha=5, layers=1)
    made = Search(config, home=folder / "home")
    made.run(executor="inline")
    return made


@pytest.fixture(scope="module")
def exported(search, tmp_path_factory):
    return search.export(tmp_path_factory.mktemp("exported") / "best", merged=True)


@pytest.fixture(scope="module")
def trained(exported):
    """LoRA weights that differ from the initial ones, whichever model the search chose."""
    params = load_file(exported / "model.safetensors")
    rng = torch.Generator().manual_seed(0)
    return {
        name: value + 0.3 * torch.randn(value.shape, generator=rng)
        for name, value in params.items()
    }


def embedded(model, exported) -> torch.Tensor:
    """Mean last hidden states of length 1, as the model card says."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(exported / "encoder", local_files_only=True)
    batch = tokenizer(texts()["text"].tolist(), padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model.eval()(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)


def own(params, exported) -> torch.Tensor:
    """The same by the model of the search."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(exported / "encoder", local_files_only=True)
    ids = tokenizer(
        texts()["text"].tolist(), padding="max_length", max_length=10, return_tensors="pt"
    )
    options = {"encoder": str(exported / "encoder"), "rank": 2, "alpha": 5, "layers": 1}
    model = Lora(features=(10,), **options)
    with torch.no_grad():
        return model.apply(params, ids["input_ids"]) / params["gain"]


def test_peft_gives_the_embeddings_of_the_search(exported, monkeypatch):
    from peft import PeftModel
    from transformers import AutoModel

    params = load_file(exported / "model.safetensors")
    base = AutoModel.from_pretrained(exported / "encoder", local_files_only=True)
    adapted = PeftModel.from_pretrained(base, str(exported))
    expected = own(params, exported)
    assert (embedded(adapted, exported) - expected).abs().max() < 1e-5
    monkeypatch.chdir(exported)  # the path of the encoder is relative, because exports are moved
    by_auto = AutoModel.from_pretrained(".", local_files_only=True)
    assert (embedded(by_auto, exported) - expected).abs().max() < 1e-5
    merged = AutoModel.from_pretrained(exported / "merged", local_files_only=True)
    assert (embedded(merged, exported) - expected).abs().max() < 1e-5


def test_weights_that_moved_are_loaded_as_they_are(exported, trained, tmp_path):
    from peft import PeftModel
    from transformers import AutoModel

    from fewshot.models.pretrained.adapters.adapter_files import save_adapter, save_merged

    save_adapter(trained, 5, str(exported / "encoder"), tmp_path)
    base = AutoModel.from_pretrained(exported / "encoder", local_files_only=True)
    untouched = embedded(base, exported)
    expected = own(trained, exported)
    assert (expected - untouched).abs().max() > 0.01
    adapted = PeftModel.from_pretrained(base, str(tmp_path))
    assert (embedded(adapted, exported) - expected).abs().max() < 1e-5
    save_merged(trained, 5, str(exported / "encoder"), tmp_path / "merged")
    merged = AutoModel.from_pretrained(tmp_path / "merged", local_files_only=True)
    assert (embedded(merged, exported) - expected).abs().max() < 1e-5


def test_the_encoder_without_training_is_a_reference(exported):
    result = json.loads((exported / "result.json").read_text())
    assert result["references"]["untrained"] is not None


def test_the_exported_config_samples_tasks_as_the_search_did(exported):
    config = load_config(exported / "config.yaml")
    assert config.space.task_weights.weights_as == "sampling"
    assert config.episodes.per_step == 2


def learns_a_new_task(exported: Path, folder: Path) -> None:
    table = texts()
    table["label"] = table["label"].str[-1]
    table.drop(columns="topic").to_csv(folder / "new.csv", index=False)
    words = ["adapt", exported, "--data", folder / "new.csv", "--shots", 4]
    assert cli.main([*map(str, words), "--out", str(folder / "out"), "--home", str(folder)]) == 0
    predicted = pd.read_csv(folder / "out" / "predictions.csv")
    assert len(predicted) == len(table) - 16


def test_the_export_learns_a_new_task(exported, tmp_path, capsys):
    learns_a_new_task(exported, tmp_path)
    capsys.readouterr()


@pytest.mark.parametrize("learner", ["protonet", "ridge"])
def test_a_transformer_of_many_tasks_learns_a_new_one_and_is_loaded(learner, tmp_path, capsys):
    from transformers import AutoModel

    config = config_of(tmp_path, name="transformer") | {"learner": {"name": learner}}
    config["space"]["lr/outer"] = 1e-3
    search = Search(config, home=tmp_path / "home")
    search.run(executor="inline")
    exported = search.export(tmp_path / "best", merged=True)
    learns_a_new_task(exported, tmp_path)
    params = load_file(exported / "model.safetensors")
    if search.summary().best.role != "untrained":
        plain = AutoModel.from_pretrained(exported / "encoder", local_files_only=True)
        assert (embedded(plain, exported) - direction(params, exported)).abs().max() > 1e-4
    merged = AutoModel.from_pretrained(exported / "merged", local_files_only=True)
    assert (embedded(merged, exported) - direction(params, exported)).abs().max() < 1e-5
    capsys.readouterr()


def direction(params, exported) -> torch.Tensor:
    """Embeddings of length 1 by the transformer of the search."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(exported / "encoder", local_files_only=True)
    ids = tokenizer(
        texts()["text"].tolist(), padding="max_length", max_length=10, return_tensors="pt"
    )
    model = Transformer(features=(10,), encoder=str(exported / "encoder"))
    with torch.no_grad():
        return model.apply(params, ids["input_ids"]) / params["gain"]


def test_other_models_have_nothing_to_merge(tmp_path):
    from tests.orchestrator.tiny import config

    search = Search(config(), home=tmp_path / "home")
    search.run(executor="inline")
    with pytest.raises(InputError, match="--merged"):
        search.export(tmp_path / "out", merged=True)
    assert not list(tmp_path.glob("out*"))
