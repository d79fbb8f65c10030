"""Pictures with titles, from a folder to predictions of pictures alone."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml

from orchestrator import Predictor
from orchestrator.cli import app as cli
from tests.fewshot import pictures
from tests.fewshot.test_two_modalities import tiny_clip

pytestmark = pytest.mark.slow

TASK = {"name": "kinds", "dataset": "pictures", "label": "label"}
KINDS = tuple(f"kind_{i}" for i in range(6))


def config(**data):
    return {
        "name": "titled",
        "datasets": {"pictures": {"source": "images", "path": "pictures", **data}},
        "tasks": {"train": [TASK], "validation": [TASK], "test": [TASK], "overlap": True},
        "model": {"name": "two_towers", "text": 16, "hidden": 8, "n_out": 8},
        "learner": {"name": "modal_protonet"},
        "episodes": {"way": 2, "shot": 1, "query": 2, "validation": 30, "test": 30},
        "steps": 60,
        "space": {
            "lr/outer": {"low": 1e-3, "high": 1e-2},
            "modal/text": {"low": 0, "high": 1},
        },
        "search": {"trials": 4, "reference_trials": 2, "finalists": 1, "seeds": 2, "lanes": 2},
    }


WAYS = {
    "pixels": {"size": 8, "text_width": 16},
    "both": {"size": 8, "text_width": 16, "query": "both"},
    "clip": {"features": "encoder", "encoder": "./clip", "text_encoder": "./clip"},
}


@pytest.fixture
def called(capsys):
    def call(*arguments):
        code = cli.main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


@pytest.mark.parametrize("way", WAYS)
def test_pictures_with_titles_go_the_whole_way(way, tmp_path, called):
    pictures.save(tmp_path / "pictures", KINDS, noise=250)
    # Beside the config for pixels, else in the folder of the pictures.
    beside = tmp_path / "titles.csv" if way == "pixels" else None
    pictures.titles(tmp_path / "pictures", without=("kind_1",), path=beside)
    search = config(**WAYS[way], text="titles.csv")
    if way == "clip":
        (tmp_path / "clip").mkdir()
        tiny_clip(tmp_path / "clip")
        search["steps"] = 150
        search["model"] = {"name": "two_towers", "text": 24, "hidden": 16, "n_out": 8}
    path, home = tmp_path / "search.yaml", tmp_path / "home"
    path.write_text(yaml.safe_dump(search))
    code, out, err = called("search", path, "--executor", "inline", "--home", home, "--json")
    assert code == 0, err
    summary = json.loads(out.splitlines()[-1])
    assert summary["trials"]["failed"] == 0
    assert 0 <= summary["best"]["hyperparameters"]["modal/text"] <= 1  # a trained model
    best = tmp_path / "best"
    assert called("export", "titled", "--out", best, "--home", home)[0] == 0
    if way == "clip":
        (tmp_path / "clip").rename(tmp_path / "gone")  # the export has its own copies
        assert (best / "encoder").is_dir()
        assert (best / "text_encoder").is_dir()

    new = pictures.save(tmp_path / "new", ("p", "q", "r"), n=5, seed=7)
    table = pictures.titles(new, path=tmp_path / "new_titles.csv")
    mine = tmp_path / "mine"
    words = ["--data", new, "--text", table, "--shots", 2, "--out", mine, "--home", home]
    code, out, err = called("adapt", best, *words)
    assert code == 0, err
    adapted = pd.read_csv(mine / "predictions.csv")
    assert len(adapted) == 3 * 3

    predictions = tmp_path / "predictions.csv"
    assert called("predict", mine, "--data", new, "--out", predictions)[0] == 0
    alone = pd.read_csv(predictions)
    assert len(alone) == 15
    assert set(alone["prediction"]) <= {"p", "q", "r"}
    if way != "both":  # queries never showed their titles, so predictions agree
        same = alone[alone["file"].str.contains("[234].png")]
        assert same["prediction"].tolist() == adapted["prediction"].tolist()
    assert Predictor.load(mine).predict(np.zeros((2, 8, 8), np.uint8)).shape == (2,)
    code, out, err = called("export", mine, "--onnx")
    assert code == 0, err


def test_a_table_with_errors_ends_a_check_with_all_of_them(tmp_path, called):
    folder = pictures.save(tmp_path / "pictures", KINDS)
    pictures.write(folder / "titles.csv", {"kind_0/0.png": "a", "gone.png": "b"})
    path = tmp_path / "search.yaml"
    path.write_text(yaml.safe_dump(config(**WAYS["pixels"], text="titles.csv")))
    code, _, err = called("check", path, "--home", tmp_path / "home")
    assert code == 2
    assert "gone.png" in err
    assert "kind_0/1.png" in err
