"""Adapted models as ONNX, checked against PyTorch."""

import numpy as np
import pandas as pd
import pytest

from fewshot.errors.inputs import InputError
from orchestrator.config.loading import data_of, parse
from orchestrator.results.predictor.as_onnx import onnx_model
from orchestrator.results.predictor.as_onnx.onnx_model import card_lines, write_onnx
from orchestrator.results.predictor.as_onnx.onnx_session import session
from tests.fewshot import tiny_transformer
from tests.orchestrator.results.predictor.test_predictor import adapted, of_texts
from tests.orchestrator.results.test_adapt import config, exported, table


def onnx_of(predictor, folder, **options):
    made = write_onnx(predictor.parts, folder, **options)
    return made, session(made.path)


# One learner is in the default suite: an export takes seconds.
@pytest.mark.parametrize(
    "learner",
    [
        "protonet",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("matching", "simpleshot", "baseline", "maml", "fine_tuned_protonet")
        ),
    ],
)
def test_an_onnx_model_returns_the_probabilities_of_pytorch(learner, tmp_path):
    data = table(tmp_path / "new.csv", 100, n_classes=3)
    _, predictor = adapted(of_texts(tmp_path, learner), data, tmp_path / "mine")
    made, opened = onnx_of(predictor, tmp_path / "mine")
    texts = list(pd.read_csv(data)["text"])
    for some in (texts, texts[:1]):  # any number of examples
        (found,) = opened.run(None, {"inputs": predictor.reader.inputs(some).numpy()})
        assert np.allclose(found, predictor.predict_proba(some), atol=1e-4)
    assert made.difference < 1e-4
    assert made.agreement > 0.99
    assert made.own.size == made.path.stat().st_size
    assert made.teacher is None
    lines = "\n".join(card_lines(made, predictor.parts))
    assert "`inputs`: int64 (b, 8)" in lines
    assert "ids of hashed n-grams" in lines


@pytest.mark.slow
@pytest.mark.parametrize("features", ["encoder", "tokens"])
def test_an_encoder_can_be_inside_of_the_onnx_model(features, tmp_path):
    (tmp_path / "tiny").mkdir()
    encoder = tiny_transformer.save(tmp_path / "tiny")
    rng = np.random.default_rng(0)
    rows = [
        (" ".join(rng.choice([*"abcdef"][c : c + 3], 5)), f"kind {c}")
        for c in range(4)
        for _ in range(9)
    ]
    path = tmp_path / "texts.csv"
    pd.DataFrame(rows, columns=["text", "label"]).to_csv(path, index=False)
    made = config(str(path), learner={"name": "protonet"}, steps=2, space={"lr/outer": 0.01})
    own = {"features": features, "encoder": encoder, "max_length": 10}
    model = {"name": "lora", "encoder": encoder, "layers": 1, "rank": 2}
    if features == "encoder":
        model = {"name": "residual", "hidden": 4}
    raw = data_of(made)
    raw["datasets"] = {"texts": {"source": "text", "path": str(path), **own}}
    raw["model"] = model
    (tmp_path / "export").mkdir()
    export = exported(parse(raw), tmp_path / "export")
    found, predictor = adapted(export, str(path), tmp_path / "mine")
    said = pd.read_csv(found.predictions)
    assert list(predictor.predict(list(said["text"]))) == list(said["prediction"])
    texts = list(said["text"])
    inside = features == "encoder"
    written, opened = onnx_of(predictor, tmp_path / "mine", with_encoder=inside)
    tokens = {"inputs": predictor.reader.inputs(texts).numpy()}
    if inside:
        encoded = predictor.reader.tokenizer(texts, padding=True, return_tensors="np")
        names = ("input_ids", "attention_mask")
        tokens = {name: encoded[name].astype(np.int64) for name in names}
    (outputs,) = opened.run(None, tokens)
    assert np.allclose(outputs, predictor.predict_proba(texts), atol=5e-3)
    assert written.teacher is not None
    if not inside:
        with pytest.raises(InputError, match="--with-encoder"):
            write_onnx(predictor.parts, tmp_path / "mine", with_encoder=True)


def test_missing_packages_are_said_with_the_remedy(monkeypatch):
    monkeypatch.setattr(onnx_model, "_PACKAGES", ("onnx", "no_such_package"))
    with pytest.raises(InputError, match=r"no_such_package.*fewtune\[onnx\]"):
        onnx_model.check_packages()
