"""The commands about predictors: predict, and export of an adapted model."""

import json
import subprocess
import sys

import pandas as pd
import pytest

from orchestrator.cli import app as cli
from tests.orchestrator.results.predictor.test_predictor import adapted, of_texts
from tests.orchestrator.results.test_adapt import table
from tests.paths import ROOT


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with an export, `mine`, which learned three topics of it, and their texts."""
    folder = tmp_path_factory.mktemp("predict")
    data = table(folder / "new.csv", 100, n_classes=3)
    adapted(of_texts(folder, "protonet"), data, folder / "mine")
    return folder


@pytest.fixture
def called(capsys):
    def call(*arguments: object) -> "subprocess.CompletedProcess[str]":
        code = cli.main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, code, printed.out, printed.err)

    return call


def test_predict_writes_all_probabilities_and_prints_measures(folder, tmp_path, called):
    out = tmp_path / "out.csv"
    done = called(
        "predict", folder / "mine", "--data", folder / "new.csv", "--out", out, "--evaluate"
    )
    assert done.returncode == 0, done.stderr
    assert "predicted 36 examples" in done.stdout
    assert "accuracy: " in done.stdout
    assert "macro_f1: " in done.stdout
    assert "95 % interval, 36 examples" in done.stdout
    assert {"prediction", "probability", "p_topic 100", "p_topic 102"} <= {*pd.read_csv(out)}
    done = called("predict", folder / "mine", "--data", folder / "new.csv", "--out", out, "--json")
    assert json.loads(done.stdout.splitlines()[-1])["predicted"] == 36


@pytest.mark.slow
def test_another_process_predicts_the_same(folder, tmp_path):
    out = tmp_path / "out.parquet"
    command = ["predict", folder / "mine", "--data", folder / "new.csv", "--out", out]
    subprocess.run(
        [sys.executable, "-m", "orchestrator.cli", *map(str, command)], cwd=ROOT, check=True
    )
    said = pd.read_csv(folder / "mine" / "predictions.csv")
    rows = pd.read_parquet(out)
    assert list(rows["prediction"].iloc[said["row"]]) == list(said["prediction"])


def test_bad_input_is_exit_code_2_and_nothing_is_written(folder, tmp_path, called):
    out = tmp_path / "out.csv"
    new = folder / "new.csv"
    cases = [
        (["predict", folder, "--data", new, "--out", out], "DIR: must be a predictor"),
        (["predict", folder / "export", "--data", new, "--out", out], "must first learn a task"),
        (["predict", folder / "mine", "--data", "no.csv", "--out", out], "--data: must be an"),
        (
            ["predict", folder / "mine", "--data", new, "--out", tmp_path / "o.txt"],
            "--out: must end",
        ),
        (
            ["predict", folder / "mine", "--data", new, "--out", out, "--evaluate", "--label", "x"],
            "--evaluate: needs the labels",
        ),
    ]
    for words, text in cases:
        done = called(*words)
        assert done.returncode == 2, done.stdout
        assert text in done.stderr
    assert not list(tmp_path.iterdir())


def test_options_of_export_that_do_not_fit_an_adapted_model_are_all_said(folder, tmp_path, called):
    words = ["--home", tmp_path / "home", "--out", tmp_path / "out", "--merged", "--with-encoder"]
    done = called("export", folder / "mine", *words)
    assert done.returncode == 2
    for option in ("--out: ", "--merged: ", "--with-encoder: ", "DIR: "):
        assert option in done.stderr
    done = called("export", "nothing", "--home", tmp_path / "home")
    assert done.returncode == 2
    assert "must be the name of a search" in done.stderr


@pytest.mark.slow
def test_export_writes_the_onnx_model_and_its_card(folder, tmp_path, called):
    for _ in range(2):  # the second time, the section of the card is replaced
        done = called("export", folder / "mine", "--onnx", "--home", tmp_path / "home")
        assert done.returncode == 0, done.stderr
    assert (folder / "mine" / "model.onnx").exists()
    card = (folder / "mine" / "README.md").read_text()
    assert card.count("## ONNX") == 1
    assert "1,000 random inputs" in card
