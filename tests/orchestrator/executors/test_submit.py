"""A search submitted to a cluster that asks for a token, from the command line to the export."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.record.home import Home
from orchestrator.record.search_records import read_records
from orchestrator.tracking.sending import mlflow_sender as tracking
from tests.orchestrator.cli.test_cli import QUICKSTART, sets

pytest_plugins = ["tests.orchestrator.token_cluster"]
pytestmark = pytest.mark.ray


def fewtune(env, *arguments) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "orchestrator.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=env,
        timeout=200,
    )


def ended(env, address: str) -> str:
    for _ in range(180):
        said = fewtune(env, "status", "quickstart", "--address", address).stdout
        if not any(state in said for state in ("PENDING", "RUNNING")):
            return said
        time.sleep(1)
    raise AssertionError("the job did not end")


def test_a_submitted_search_runs_to_its_export(token_cluster, tmp_path: Path, home_set_up):
    home_set_up(tmp_path)
    env, address = dict(token_cluster.env), token_cluster.address
    small = sets(**{"search.trials": 6})
    done = fewtune(env, "submit", QUICKSTART, "--address", address, "--home", tmp_path, *small)
    assert done.returncode == 0, done.stderr
    said = ended(env, address)
    log = fewtune(env, "logs", "quickstart", "--address", address).stdout
    assert "SUCCEEDED" in said, log
    assert "on the test tasks" in log
    counts = tracking.counts(Home(tmp_path).tracking_uri, "quickstart")
    assert counts["search"] == {"FINISHED": 1}
    records = read_records("quickstart", Home(tmp_path))
    assert records is not None
    assert len(records.search.trials()) == 6
    every = [*records.search.trials(), *records.final.trials(), *records.test.trials()]
    assert sum(counts["trial"].values()) == len(every)
    out = tmp_path / "best"
    fetched = fewtune(env, "export", "quickstart", "--home", tmp_path, "--out", out)
    assert fetched.returncode == 0, fetched.stderr
    assert (out / "model.safetensors").exists()
    assert json.loads((out / "result.json").read_text())["state"] == "complete"


def test_without_the_token_nothing_is_submitted(token_cluster, tmp_path: Path):
    env = {key: value for key, value in token_cluster.env.items() if "TOKEN" not in key}
    env |= {"RAY_AUTH_MODE": "disabled", "HOME": str(tmp_path)}
    address = token_cluster.address
    done = fewtune(env, "submit", QUICKSTART, "--address", address, "--home", tmp_path, *sets())
    assert done.returncode == 2
    assert "token" in done.stderr
    assert "Traceback" not in done.stderr
