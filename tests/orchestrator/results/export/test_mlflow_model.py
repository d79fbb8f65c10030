"""Models in MLflow's registry answer requests."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fewshot.errors.inputs import InputError
from orchestrator import Predictor
from orchestrator.record.home import Home
from orchestrator.results.export.mlflow_model import register_model
from orchestrator.results.predictor.serving import served
from tests.orchestrator.results.predictor.test_predictor import adapted, of_texts
from tests.orchestrator.results.test_adapt import table
from tests.paths import ROOT


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with an export, `mine`, which learned three topics of it, and their texts."""
    folder = tmp_path_factory.mktemp("served")
    data = table(folder / "new.csv", 100, n_classes=3)
    adapted(of_texts(folder, "protonet"), data, folder / "mine")
    return folder


def test_an_export_learns_from_the_labelled_rows_of_a_request(folder):
    rows = pd.read_csv(folder / "new.csv")
    labels = rows["label"].where(rows.groupby("label").cumcount() < 3, None)
    answer = served(folder / "export")
    found = answer(rows.assign(label=labels))
    mine = Predictor.load(folder / "mine")
    assert list(found["prediction"]) == list(mine.predict(rows))  # `adapt` saw these examples too
    assert list(found)[2:] == [f"p_{name}" for name in mine.classes]
    with pytest.raises(InputError, match="must have the column 'label'"):
        answer(rows[["text"]])
    with pytest.raises(InputError, match="at least two classes"):
        answer(rows.assign(label=None))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def asked(port: int, rows: pd.DataFrame, process: "subprocess.Popen[bytes]") -> pd.DataFrame:
    """The answer of a server to a request, as soon as it has started."""
    body = json.dumps({"dataframe_split": rows.to_dict("split", index=False)}).encode()
    headers = {"Content-Type": "application/json"}
    url = f"http://127.0.0.1:{port}/invocations"
    deadline = time.monotonic() + 240
    while True:
        try:
            request = urllib.request.Request(url, body, headers)
            with urllib.request.urlopen(request, timeout=60) as response:
                return pd.DataFrame(json.load(response)["predictions"])
        except (ConnectionError, urllib.error.URLError) as error:
            if isinstance(error, urllib.error.HTTPError):
                raise AssertionError(error.read().decode()) from error
            assert process.poll() is None, "the server has ended"
            assert time.monotonic() < deadline, "the server has not started"
            time.sleep(0.5)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_mlflow_serves_a_registered_model(folder, tmp_path):
    import mlflow

    uri = Home.at(str(tmp_path / "home")).tracking_uri
    before = os.environ.get("MLFLOW_TRACKING_URI")
    assert register_model(folder / "mine", "mine", uri) == 1
    assert os.environ.get("MLFLOW_TRACKING_URI") == before  # else the home has a different MLflow
    assert register_model(folder / "mine", "mine", uri) == 2
    assert register_model(folder / "export", "topics", uri) == 1
    client = mlflow.MlflowClient(uri)
    assert int(client.get_model_version_by_alias("mine", "champion").version) == 2
    mlflow.set_tracking_uri(uri)
    try:
        loaded = mlflow.pyfunc.load_model("models:/topics@champion")
        example = loaded.input_example
        rows = pd.read_csv(folder / "new.csv")
        learned = loaded.predict(rows)
    finally:
        mlflow.set_tracking_uri(before)
    assert list(learned["prediction"]) == list(served(folder / "export")(rows)["prediction"])
    assert list(example) == ["text", "label"]
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/mine@champion"]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    # `mlflow` starts `uvicorn`, which it finds in the folder of this Python.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"MLFLOW_TRACKING_URI": uri, "PYTHONPATH": str(ROOT), "PATH": path}
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        found = asked(port, rows[["text"]], process)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
    mine = Predictor.load(folder / "mine")
    assert list(found["prediction"]) == list(mine.predict(rows))
    chances = found[[f"p_{name}" for name in mine.classes]].to_numpy()
    assert np.allclose(chances, mine.predict_proba(rows), atol=1e-6)
