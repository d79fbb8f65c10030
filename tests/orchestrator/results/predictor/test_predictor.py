"""An adapted model is kept in a folder, and predicts without the examples."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from fewshot.errors.inputs import InputError
from orchestrator import Predictor
from orchestrator.config.loading import parse
from orchestrator.record.home import Home
from orchestrator.results.new_tasks.adapt import adapt
from orchestrator.results.predictor.folder import FILE
from orchestrator.results.predictor.prediction import predict_file
from tests.orchestrator.results.test_adapt import config, exported, points, table

LEARNERS = {
    "protonet": {},
    "fine_tuned_protonet": {"adapt_steps": 2, "inner": "all"},
    "ridge": {},
    "matching": {},
    "simpleshot": {},
    "baseline": {"adapt_steps": 5},
    "maml": {"adapt_steps": 2},
    "anil": {"adapt_steps": 2},
}
RATES = {
    "maml": {"lr/inner": 0.1, "lr/adapt": 0.1},
    "anil": {"lr/inner": 0.1, "lr/adapt": 0.1},
    "baseline": {"lr/adapt": 0.1},
    "fine_tuned_protonet": {"lr/adapt": 0.1, "adapt/steps": 2},
}


def of_texts(folder, learner):
    """An export that learned topics of texts."""
    path = table(folder / "known.csv", 0)
    space = {"lr/outer": 0.02} | RATES.get(learner, {})
    parts = {"name": learner, **LEARNERS[learner]}
    made = config(path, learner=parts, steps=3, space=space)
    export = folder / "export"
    export.mkdir()
    return exported(made, export)


def adapted(export, data, folder, **more):
    """What `adapt` found, and the predictor that it left in `folder`."""
    home = Home.at(str(folder.parent / "home"))
    found = adapt(export, data, **{"shots": 3, **more}, out=folder, home=home)
    return found, Predictor.load(folder)


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """The folder of a predictor of three topics."""
    folder = tmp_path_factory.mktemp("texts")
    data = table(folder / "new.csv", 100, n_classes=3)
    adapted(of_texts(folder, "protonet"), data, folder / "mine")
    return folder / "mine"


@pytest.fixture
def copy(mine, tmp_path):
    return shutil.copytree(mine, tmp_path / "copy")


@pytest.mark.parametrize("learner", LEARNERS)
def test_the_predictor_predicts_what_adapt_predicted(learner, tmp_path):
    data = table(tmp_path / "new.csv", 100, n_classes=3)
    found, predictor = adapted(of_texts(tmp_path, learner), data, tmp_path / "mine")
    said = pd.read_csv(found.predictions)
    assert predictor.parts.model.support is None
    assert predictor.classes == ("topic 100", "topic 101", "topic 102")
    assert list(predictor.predict(list(said["text"]))) == list(said["prediction"])
    chances = predictor.predict_proba(said)
    assert tuple(chances) == predictor.classes
    assert np.allclose(chances.sum(axis=1), 1)
    assert np.allclose(chances.max(axis=1), said["probability"], atol=1e-5)


def test_numbers_of_functions_and_tables_are_predicted(tmp_path):
    rows = [{"function": "line"}]
    made = parse(
        {
            "name": "lines",
            "tasks": dict.fromkeys(("train", "validation", "test"), rows),
            "model": {"name": "mlp", "hidden": [8]},
            "learner": {"name": "maml", "adapt_steps": 2},
            "episodes": {"shot": 10, "query": 10, "validation": 5, "test": 5},
            "steps": 3,
            "space": {"lr/outer": 0.005, "lr/inner": 0.02, "lr/adapt": 0.02},
        }
    )
    (tmp_path / "export").mkdir()
    export, data = exported(made, tmp_path / "export"), points(tmp_path / "points.csv")
    found, predictor = adapted(export, data, tmp_path / "mine", shots=10, label="y")
    said = pd.read_csv(found.predictions)
    assert np.allclose(predictor.predict(said), said["prediction"], atol=1e-4)
    assert np.allclose(predictor.predict(said[["x"]].to_numpy()), said["prediction"], atol=1e-4)
    with pytest.raises(InputError, match="predicts numbers"):
        predictor.predict_proba(said)
    done = predict_file(predictor, data, tmp_path / "out.parquet", evaluate=True)
    assert done.measures.keys() == {"mse", "skill"}
    assert done.measured == 39  # the last of 40 has no number
    with pytest.raises(InputError, match="must have the columns x"):
        predictor.predict(said[["y"]])
    with pytest.raises(InputError, match="must be finite numbers"):
        predictor.predict(np.array([[np.nan]]))


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_images_are_predicted_from_arrays_and_folders(norm, tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 8, 8), dtype=np.uint8)
    labels = np.repeat([f"kind {i}" for i in range(6)], 10)
    np.savez(tmp_path / "known.npz", images=images, label=labels)
    task = {"name": "kinds", "dataset": "images", "label": "label"}
    made = parse(
        {
            "name": "kinds",
            "datasets": {"images": {"source": "images", "path": str(tmp_path / "known.npz")}},
            "tasks": {"train": [task], "validation": [task], "test": [task], "overlap": True},
            "model": {"name": "conv", "width": 4, "norm": norm},
            "learner": {"name": "protonet"},
            "episodes": {"way": 3, "shot": 2, "query": 2, "validation": 5, "test": 5},
            "steps": 2,
            "space": {"lr/outer": 0.01},
        }
    )
    (tmp_path / "export").mkdir()
    export = exported(made, tmp_path / "export")
    found, predictor = adapted(export, str(tmp_path / "known.npz"), tmp_path / "mine")
    said = pd.read_csv(found.predictions)
    rest = images[said["row"]]
    # Batch statistics depend on the other images, so these predictions need the examples.
    assert (predictor.parts.model.support is None) == (norm == "group")
    assert list(predictor.predict(rest)) == list(said["prediction"])
    from PIL import Image

    (tmp_path / "more" / "kind 1").mkdir(parents=True)
    for i in range(3):
        Image.fromarray(images[10 + i]).save(tmp_path / "more" / "kind 1" / f"{i}.png")
    done = predict_file(predictor, str(tmp_path / "more"), tmp_path / "out.jsonl", evaluate=True)
    rows = pd.read_json(done.path, lines=True)
    assert list(rows["file"]) == [f"kind 1/{i}.png" for i in range(3)]
    assert list(rows["prediction"]) == list(predictor.predict(images[10:13]))
    assert done.measured == 3
    with pytest.raises(InputError, match="must be several images"):
        predictor.predict(["a text"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="--data: must be a folder with images"):
        predictor.examples(str(tmp_path / "empty"))


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_a_file_is_predicted_and_measured(ending, mine, tmp_path):
    more = pd.read_csv(table(tmp_path / "more.csv", 100, n_classes=3))
    more.loc[0, "label"] = ""
    data, out = tmp_path / f"more{ending}", tmp_path / f"out{ending}"
    if ending == ".csv":
        more.to_csv(data, index=False)
    elif ending == ".jsonl":
        more.to_json(data, orient="records", lines=True)
    else:
        more.to_parquet(data)
    seen = []
    predictor = Predictor.load(mine)
    done = predict_file(predictor, str(data), out, evaluate=True, started=lambda n: seen.append)
    assert (done.predicted, done.measured, sum(seen)) == (36, 35, 36)
    read = {".csv": pd.read_csv, ".parquet": pd.read_parquet}
    rows = read.get(ending, lambda path: pd.read_json(path, lines=True))(out)
    names = ["prediction", "probability", *(f"p_{name}" for name in predictor.classes)]
    assert list(rows)[-5:] == names
    right = (rows["prediction"] == more["label"])[1:].mean()
    measured = done.measures["accuracy"]
    assert measured.value == pytest.approx(right)
    assert measured.low < measured.value <= measured.high
    assert done.measures.keys() == {"accuracy", "macro_f1"}


def test_what_can_not_be_predicted_is_refused_with_every_error(mine, tmp_path):
    predictor = Predictor.load(mine)
    (tmp_path / "wrong.csv").write_text("words,label\nw100x1,topic 100\n")
    with pytest.raises(InputError) as caught:
        predict_file(predictor, str(tmp_path / "wrong.csv"), tmp_path / "out.xlsx")
    assert [detail.path for detail in caught.value.details] == [
        "--out", str(tmp_path / "wrong.csv"),
    ]  # fmt: skip
    (tmp_path / "empty.csv").write_text("text,label\n")
    with pytest.raises(InputError, match="must have at least one row"):
        predictor.examples(str(tmp_path / "empty.csv"))
    with pytest.raises(InputError, match="--data: must be an existing file"):
        predictor.examples(str(tmp_path / "nothing.csv"))
    (tmp_path / "new.csv").write_text("text,label\nw100x1,topic 7\n")
    with pytest.raises(InputError, match="only classes that the model knows"):
        predict_file(predictor, str(tmp_path / "new.csv"), tmp_path / "out.csv", evaluate=True)
    with pytest.raises(InputError, match="must be a list of texts"):
        predictor.predict(np.zeros((2, 8, 8), np.uint8).tolist()[0][0][0])
    with pytest.raises(InputError, match="must have a text in every row"):
        predictor.predict(["w100x1", " "])
    assert not (tmp_path / "out.csv").exists()
    assert predictor.predict_proba([]).shape == (0, 3)


def test_a_folder_that_is_no_predictor_is_refused(mine, copy, tmp_path):
    with pytest.raises(InputError, match="DIR: must be a predictor"):
        Predictor.load(tmp_path)
    with pytest.raises(InputError, match="must first learn a task"):
        Predictor.load(mine.parent / "export")
    data = json.loads((copy / FILE).read_text())
    (copy / FILE).write_text(json.dumps(data | {"classes": 3, "label": None, "format": 9}))
    with pytest.raises(InputError) as caught:
        Predictor.load(copy)
    assert len(caught.value.details) == 3
    for text in ("{", "[]", json.dumps(data | {"spec": {"recipe": 3}})):
        (copy / FILE).write_text(text)
        with pytest.raises(InputError, match="must be a file of a predictor"):
            Predictor.load(copy)
    (copy / FILE).write_text(json.dumps(data))
    whole = (copy / "model.safetensors").read_bytes()
    for damaged in (whole[:-1], b"", b"garbage" * 100):
        (copy / "model.safetensors").write_bytes(damaged)
        with pytest.raises(InputError, match="must be a file of a predictor"):
            Predictor.load(copy)
    save_file({"other": torch.zeros(1)}, copy / "model.safetensors")
    with pytest.raises(InputError, match=r"must be a file of a predictor: it has no"):
        Predictor.load(copy)


def test_code_and_paths_in_a_predictor_are_refused(copy):
    data = json.loads((copy / FILE).read_text())
    data["spec"]["recipe"]["model"]["name"] = "os:system"
    data["spec"]["recipe"]["learner"]["name"] = "os.path:join"
    (copy / FILE).write_text(json.dumps(data))
    with pytest.raises(InputError, match="names code, which is not run") as caught:
        Predictor.load(copy)
    assert [detail.path for detail in caught.value.details] == ["model.name", "learner.name"]
    data["spec"]["recipe"]["model"]["name"] = "bag"
    data["spec"]["recipe"]["learner"]["name"] = "protonet"
    data["data"]["options"] |= {"features": "tokens", "encoder": "../mine"}
    (copy / FILE).write_text(json.dumps(data))
    with pytest.raises(InputError, match="must be a folder inside the predictor"):
        Predictor.load(copy)


def test_the_folder_has_tensors_and_json_and_no_examples(mine):
    assert {path.name for path in mine.iterdir()} == {
        "README.md", "metrics.json", "model.safetensors", "predictions.csv", "predictor.json",
    }  # fmt: skip
    text = (mine / FILE).read_text()
    assert "known.csv" not in text
    assert "new.csv" not in text
    assert load_file(mine / "model.safetensors").keys() == {
        "embedding", "weight", "bias", "prototype.weight", "prototype.bias",
    }  # fmt: skip
