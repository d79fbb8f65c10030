"""Processes that write runs beside the sender, on the real MLflow."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.tracking.dashboard import tracking_uri
from orchestrator.tracking.mlflow_client import connect
from orchestrator.tracking.run_ids import RunIds
from orchestrator.tracking.sending import helpers, mlflow_sender
from orchestrator.tracking.sending.helpers import Helper, HelperError
from orchestrator.tracking.sending.mlflow_sender import counts, recorder
from tests.orchestrator import records
from tests.orchestrator.tracking.test_mlflow_sender import points, runs

# Each helper imports MLflow, for seconds.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    connect(tracking_uri(tmp_path))
    return tmp_path


@pytest.fixture
def helped(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Makes two helpers worthwhile at once; the number of events that each write by one had."""
    written: list[int] = []
    real: Callable[..., None] = Helper.write

    def write(self, batches, run_ids, *, known):
        real(self, batches, run_ids, known=known)
        written.append(sum(map(len, batches)))

    monkeypatch.setattr(Helper, "write", write)
    monkeypatch.setattr(mlflow_sender, "_RUNS_FOR_HELP", 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    return written


def test_helpers_write_the_same_runs(home: Path, helped: list[int]) -> None:
    folder = home / "searches" / "demo"
    made = recorder(folder, tracking_uri(home), "0a")
    made.drain(timeout=0)
    records.whole(made, ["complete"] * 12)
    assert made.drain(timeout=300)
    made.close()
    assert helped, "helpers have written"
    assert made.rejected == 0
    found = runs(home)  # no key has two
    assert len(found) == 1 + 12 + 24
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    assert points(home) == 12 * 2 * 7 + 24 * 6 + 1
    for key, run in found.items():
        above = key.partition("/validation")[0] if "/validation" in key else "demo"
        parent = run.data.tags.get("mlflow.parentRunId")
        assert parent == (None if key == "demo" else found[above].info.run_id)
    again = recorder(folder, tracking_uri(home), "0a")
    records.whole(again, ["complete"] * 12)
    assert again.backlog() == 0
    again.close()


def test_a_helper_that_is_killed_loses_and_doubles_nothing(
    home: Path, helped: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[str]] = []
    real = subprocess.Popen

    def popen(*args, **options):
        started.append(real(*args, **options))
        return started[-1]

    monkeypatch.setattr(helpers.subprocess, "Popen", popen)
    made = recorder(home / "searches" / "demo", tracking_uri(home), "0a")
    made.drain(timeout=0)
    records.whole(made, ["complete"] * 12)
    deadline = time.monotonic() + 300
    while not helped:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(started[0].pid, signal.SIGKILL)
    assert made.drain(timeout=300)
    made.close()
    assert len(runs(home)) == 1 + 12 + 24
    assert counts(tracking_uri(home), "demo")["adaptation"] == {"FINISHED": 24}
    assert points(home) == 12 * 2 * 7 + 24 * 6 + 1
    assert all(process.poll() is not None for process in started), "none is left"


def test_a_helper_tells_what_mlflow_rejects_and_ends_with_its_input(home: Path, caplog) -> None:
    folder = home / "searches" / "demo"
    folder.mkdir(parents=True)
    made = recorder(folder, tracking_uri(home), "0a")
    records.whole(made, ["complete"])
    assert made.drain(timeout=300)
    made.close()
    sender = mlflow_sender.Sender(made._outbox, folder, tracking_uri(home), "0a")
    lines = [*map(mlflow_sender.json.loads, (folder / "outbox.jsonl").open())]
    event = next(e for e in sender._events(lines) if e.metrics)
    ids = RunIds(folder / "mlflow_runs.jsonl", tracking_uri(home))
    helper = Helper(folder, tracking_uri(home), "0a")
    bad = mlflow_sender.RunEvent(
        **{n: getattr(event, n) for n in event.__slots__} | {"metrics": {"": 1.0}}
    )
    helper.write([[bad]], ids, known=True)
    assert helper.rejected == 1
    assert "mlflow_rejects" in caplog.text
    helper.close()
    with pytest.raises(HelperError, match="ended"):
        helper.write([[event]], ids, known=True)
