"""A whole search on Ray whose worker is killed, stopped, and told to stop."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.config.loading import dump, parse
from orchestrator.record.home import Home
from orchestrator.tracking.mlflow_client import connect
from tests.orchestrator.executors.test_liveness import ray_started
from tests.orchestrator.own_loops import data
from tests.orchestrator.test_own_loop import assert_nothing_is_lost_or_doubled, reported
from tests.paths import ROOT


def worker() -> int | None:
    """The process of a worker that trains now, of the Ray that this process has started."""
    for process in importlib.import_module("psutil").Process().children(recursive=True):
        name = Path(f"/proc/{process.pid}/cmdline")
        if name.exists() and name.read_text().startswith("ray::RayWorker.turn"):
            return process.pid
    return None


def wait_until(condition, process, seconds=300):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert process.poll() is None, "it ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


@contextmanager
def searching(command, messages):
    """A search on the Ray of this process."""
    import ray

    address = ray.get_runtime_context().gcs_address
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "RAY_ADDRESS": address},
        stdout=subprocess.PIPE,
        stderr=messages,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_search_survives_whatever_happens_to_its_worker(tmp_path):
    home, path, said = Home(tmp_path / "home"), tmp_path / "search.yaml", tmp_path / "said"
    connect(home.tracking_uri)  # here, where the database is copied
    options = {"trials": 8, "reference_trials": 2, "finalists": 1, "seeds": 2, "rungs": [0.3, 0.6]}
    options["worker_timeout"] = 10
    path.write_text(dump(parse(data("slow", steps=10, search=options))))
    command = [sys.executable, "-m", "orchestrator.cli", "search", str(path), "--json"]
    command += ["--home", str(home.path)]
    with (
        ray_started(num_cpus=1, num_gpus=0),
        said.open("w") as messages,
        searching(command, messages) as process,
    ):
        for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM):
            before = reported(home)
            wait_until(lambda least=before + 2: reported(home) >= least, process)
            os.kill(wait_until(worker, process), number)
        printed, _ = process.communicate(timeout=900)
    text = said.read_text()
    assert process.returncode == 0, text
    summary = json.loads(printed.splitlines()[-1])
    assert sum(summary["trials"].values()) == 8
    assert summary["trials"]["failed"] == summary["trials"]["running"] == 0
    assert text.count("worker_lost") == 2, "each said once"
    assert text.count("no sign of life for 10 s") == 1
    assert text.count("worker_must_stop") == 1
    assert_nothing_is_lost_or_doubled(home)
