"""Studies and MLflow's runs in PostgreSQL, which is cut off, restarted, and away for a while."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fewshot.errors.inputs import FewtuneError, InputError
from orchestrator.config.loading import dump
from orchestrator.record.home import Home
from orchestrator.record.studies import database
from orchestrator.record.studies.study import StudyRecord, open_storage, read_study
from orchestrator.space.search_space import Range
from orchestrator.tracking.sending import mlflow_sender as tracking
from tests.orchestrator import tiny
from tests.paths import ROOT

pytest_plugins = ["tests.orchestrator.postgres"]
pytestmark = pytest.mark.slow

BOX = {"lr/outer": Range(1e-4, 1e-1, log=True)}
PARAMS = {"lr/outer": 1e-2}
AWAY_SECONDS = 20


def exercise(record: StudyRecord) -> None:
    """Every operation that writes, once."""
    number = record.ask(PARAMS, {"candidate": 1}).number
    record.report(number, 3, 0.25)
    record.adopt(number)
    record.finish(number, "complete", 0.25, {"reason": "done"})
    record.note("state", f"after {number}")


OPERATIONS = {
    "ask": lambda record: record.ask(PARAMS, {"candidate": 1}),
    "report": lambda record: record.report(0, 6, 0.5),
    "adopt": lambda record: record.adopt(0),
    "note": lambda record: record.note("state", "new"),
    "finish": lambda record: record.finish(0, "complete", 0.5, {"reason": "done"}),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_connections_that_are_cut_are_opened_again(postgres, name: str, caplog) -> None:
    url = postgres.create(f"cut_{name}")
    with open_storage(url) as storage:
        record = StudyRecord.open(storage, "toy", BOX)
        record.ask(PARAMS)
        record.report(0, 3, 0.25)
        assert postgres.terminate(f"cut_{name}") > 0
        OPERATIONS[name](record)
        found = read_study(url, "toy")
        assert found is not None
        assert found.trials() == record.trials()
        assert dict(found.notes) == dict(record.notes)
    said = [one.getMessage() for one in caplog.records if "database_" in one.getMessage()]
    if name != "ask":  # Optuna itself repeats the creation of a trial
        assert [line.split()[0] for line in said] == ["database_away", "database_back"]
    assert not [line for line in said if "\n" in line or "planted" in line]


def test_an_end_whose_confirmation_was_lost_is_not_an_error(postgres, monkeypatch) -> None:
    url = postgres.create("unconfirmed")
    with open_storage(url) as storage:
        record = StudyRecord.open(storage, "toy", BOX)
        record.ask(PARAMS)
        write = storage.set_trial_state_values

        def cut_after(*arguments):
            write(*arguments)
            monkeypatch.undo()
            postgres.terminate("unconfirmed")
            return storage.get_trial(arguments[0]).state  # fails as the confirmation would

        monkeypatch.setattr(storage, "set_trial_state_values", cut_after)
        record.finish(0, "complete", 0.25, {})
        assert read_study(url, "toy").trials() == record.trials()


def test_a_server_that_is_away_is_waited_for(postgres, caplog) -> None:
    url = postgres.create("away")
    with open_storage(url) as storage:
        record = StudyRecord.open(storage, "toy", BOX)
        postgres.stop()
        back = threading.Timer(5, postgres.start)
        back.start()
        exercise(record)
        back.join()
        assert read_study(url, "toy").trials() == record.trials()
    said = [one.getMessage() for one in caplog.records if "database_" in one.getMessage()]
    assert [line.split()[0] for line in said] == ["database_away", "database_back"]


def test_what_stays_away_ends_the_search_with_a_sentence(postgres, monkeypatch) -> None:
    monkeypatch.setattr(database, "PATIENCE", 1.0)
    with open_storage(postgres.create("gone")) as storage:
        record = StudyRecord.open(storage, "toy", BOX)
        postgres.stop()
        try:
            with pytest.raises(FewtuneError, match=r"has not answered for 1 s: .*`--resume`"):
                record.note("state", "new")
        finally:
            postgres.start()


def test_a_trial_that_somebody_else_created_is_not_taken_for_the_next(postgres) -> None:
    url = postgres.create("twins")
    with open_storage(url) as storage, open_storage(url) as other:
        record = StudyRecord.open(storage, "toy", BOX)
        StudyRecord.open(other, "toy", BOX).ask(PARAMS)
        with pytest.raises(FewtuneError, match="has a trial 0 that this search did not create"):
            record.ask(PARAMS)


def test_a_server_that_is_not_there_at_the_start_is_not_waited_for(postgres) -> None:
    url = postgres.url("nowhere")
    with pytest.raises(InputError, match="FEWTUNE_STORAGE: can't be used") as caught:
        read_study(url, "toy")
    assert "planted" not in str(caught.value)


@pytest.mark.timeout(900)
def test_a_search_survives_what_happens_to_its_databases(postgres, tmp_path: Path) -> None:
    """Studies and MLflow on one server: cut, restarted, and away for 20 s."""
    config = tmp_path / "toy.yaml"
    options = {"trials": 16, "reference_trials": 2, "finalists": 1, "seeds": 2, "lanes": 2}
    config.write_text(dump(tiny.config(steps=100, search=options | {"rungs": []})))
    home, log = tmp_path / "home", tmp_path / "said"
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "FEWTUNE_STORAGE": postgres.create("studies"),
        "MLFLOW_TRACKING_URI": postgres.create("mlflow"),
    }
    command = [sys.executable, "-m", "orchestrator.cli", "search", str(config)]
    command += ["--home", str(home), "--executor", "inline"]
    with log.open("w") as output:
        search = subprocess.Popen(
            command,
            cwd=tmp_path,  # MLflow's artifacts are kept in the working directory
            env=env,
            stdout=output,
            stderr=output,
        )
    try:
        for n, mishap in enumerate((_cut, _restarted, _away)):
            _wait_for_trials(postgres, 4 + 4 * n, search, log)
            mishap(postgres)
        assert search.wait(600) == 0, log.read_text()
    finally:
        search.kill()
        search.wait()
    said = log.read_text()
    assert "Traceback" not in said
    assert "database_away" in said
    assert "database_back" in said
    assert "planted" not in said
    assert len(said.splitlines()) < 100, said
    record = read_study(env["FEWTUNE_STORAGE"], "toy")
    assert record is not None
    assert [trial.number for trial in record.trials()] == list(range(16))
    assert "running" not in {trial.state for trial in record.trials()}
    counts = tracking.counts(env["MLFLOW_TRACKING_URI"], "toy")
    assert counts["search"] == {"FINISHED": 1}
    assert "RUNNING" not in counts["trial"]
    final, test = (
        read_study(env["FEWTUNE_STORAGE"], f"toy/{stage}") for stage in ("final", "test")
    )
    assert final is not None
    assert test is not None
    assert sum(counts["trial"].values()) == len(record) + len(final) + len(test)
    assert Home(home).searches() == ["toy"]


def _wait_for_trials(postgres, count: int, search, log: Path) -> None:
    deadline = time.monotonic() + 300
    while True:
        assert search.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        exists = postgres.sql("SELECT to_regclass('trials') IS NOT NULL", "studies") == "t"
        if exists and int(postgres.sql("SELECT count(*) FROM trials", "studies")) >= count:
            return
        time.sleep(0.3)


def _cut(postgres) -> None:
    for _ in range(3):
        postgres.terminate("studies")
        postgres.terminate("mlflow")
        time.sleep(0.3)


def _restarted(postgres) -> None:
    postgres.stop()
    postgres.start()


def _away(postgres) -> None:
    postgres.stop()
    time.sleep(AWAY_SECONDS)
    postgres.start()
