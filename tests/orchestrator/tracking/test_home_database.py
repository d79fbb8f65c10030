"""Runs that are written in SQL have the rows that MLflow's client would have written."""

import math
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from orchestrator.tracking.dashboard import tracking_uri
from orchestrator.tracking.events import RunEvent, by_run
from orchestrator.tracking.mlflow_client import connect
from orchestrator.tracking.run_ids import RunIds
from orchestrator.tracking.sending.home_database import HomeDatabase, home_database
from orchestrator.tracking.sending.run_writer import RunWriter

START = 1.7e9
TABLES = ("tags", "params", "metrics", "latest_metrics")


def event(key: str, **what: Any) -> RunEvent:
    kinds = ("search", "trial", "adaptation")
    depth = len(key.split("/")) - 1
    fixed = {"id": "x", "search": "demo", "experiment": "e", "kind": kinds[min(depth, 2)]}
    parent = key.rpartition("/")[0] or None
    return RunEvent(key=key, name=key, parent=parent, **{**fixed, "time": START, **what})


STEPS: Sequence[Sequence[RunEvent]] = (
    (
        event("demo", status="RUNNING", params={"trials": "3"}, tags={"fewtune.state": "running"}),
        event("demo/0", status="RUNNING", params={"lr/outer": "0.1"}, start=START - 5),
        event("demo/0", metrics={"score": 0.25, "worst": math.nan}, step=10),
        event("demo/0", metrics={"score": 0.5, "most": math.inf}, step=20, time=START + 1.2345),
        event("demo/0/a", status="FINISHED", params={"task": "a"}, metrics={"f1": 1}, start=START),
    ),
    (
        event("demo/0", status="KILLED", tags={"fewtune.state": "pruned"}, time=START + 2),
        event("demo/1", status="RUNNING", tags={"fewtune.attempt": "0"}),
        event("demo/1", metrics={"score": 0.25}, step=20),
        event("demo/1", metrics={"score": 0.75}, step=10),
    ),
    (
        event("demo/1", status="KILLED", tags={"fewtune.state": "interrupted"}, time=START + 3),
        event("demo", metrics={"score": 0.5}, step=7),
    ),
    (
        event("demo/1", status="RUNNING", tags={"fewtune.attempt": "1"}, time=START + 4),
        event("demo/1", metrics={"score": 0.25}, step=20),  # the report is repeated
        event("demo/1", metrics={"score": -math.inf}, step=30),
    ),
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    connect(tracking_uri(tmp_path))
    return tmp_path


def ids_of(home: Path) -> RunIds:
    return RunIds(home / "runs.jsonl", "")


def opened(home: Path, ids: RunIds) -> HomeDatabase:
    writer = RunWriter(tracking_uri(home), "0a", ids)
    found = home_database(tracking_uri(home), "0a", ids, writer.experiment)
    assert found is not None, "the tables are those of a tested version of MLflow"
    return found


def rows(home: Path) -> dict[str, Any]:
    """All that the five tables have, with names of runs in place of ids."""
    with closing(sqlite3.connect(home / "mlflow.db")) as database:
        names = dict(database.execute("SELECT run_uuid, name FROM runs"))

        def table(name: str) -> list[dict[str, Any]]:
            found = database.execute(f"SELECT * FROM {name}")
            columns = [column[0] for column in found.description]
            return [dict(zip(columns, row, strict=True)) for row in found]

        def named(value: Any) -> Any:
            for id, name in names.items():
                if isinstance(value, str):
                    value = value.replace(id, name)
            return value

        return {
            name: sorted(
                ({key: named(value) for key, value in row.items()} for row in table(name)), key=str
            )
            for name in ("runs", *TABLES)
        }


def test_the_rows_are_those_of_mlflows_client(home: Path, tmp_path_factory) -> None:
    other = tmp_path_factory.mktemp("other")
    connect(tracking_uri(other))
    database, writer = (
        opened(home, ids_of(home)),
        RunWriter(tracking_uri(other), "0a", ids_of(other)),
    )
    writer.known = True
    for events in STEPS:
        assert database.write(by_run(events)) == []
        for batch in by_run(events):
            writer.write(batch)
    assert writer.rejected == 0
    here, there = rows(home), rows(other)
    for run in (*here["runs"], *there["runs"]):
        run["artifact_uri"] = run["artifact_uri"].replace(str(other), str(home))
    for table in ("runs", *TABLES):
        assert here[table] == there[table], table
    assert len(here["runs"]) == 4


def test_writing_everything_again_changes_nothing(home: Path) -> None:
    ids = ids_of(home)
    database = opened(home, ids)
    for events in STEPS:
        database.write(by_run(events))
    before = rows(home)
    assert database.own_runs() == ids.runs
    for events in STEPS:
        again = [batch for batch in by_run(events) if not any(e.params for e in batch)]
        assert database.write(again) == []
    assert rows(home) == before


def test_what_only_the_client_can_write_is_returned_with_what_follows_it(home: Path) -> None:
    database = opened(home, ids_of(home))
    long = event("demo/0", tags={"mlflow.note.content": "x" * 7000})
    child = event("demo/0/a", status="FINISHED")
    odd = event("demo/1", metrics={"": 1.0})
    left = database.write(by_run([event("demo"), long, child, odd, event("demo/2")]))
    assert left == [[long], [child], [odd]]
    assert set(database.own_runs()) == {"demo", "demo/2"}
    renamed = [event("demo/2", tags={"mlflow.runName": "best"})]
    assert database.write([renamed]) == [renamed]
    connect(tracking_uri(home)).delete_run(database.own_runs()["demo/2"])
    later = [event("demo/2", metrics={"score": 1.0})]
    assert database.write([later]) == [later]


def test_a_database_with_other_columns_is_left_to_the_client(home: Path) -> None:
    uri = tracking_uri(home)
    assert home_database(uri, "0a", ids_of(home), str) is not None
    with closing(sqlite3.connect(home / "mlflow.db")) as database:
        database.execute("ALTER TABLE metrics ADD COLUMN unit VARCHAR(8)")
    assert home_database(uri, "0a", ids_of(home), str) is None
    assert home_database("http://127.0.0.1:1", "0a", ids_of(home), str) is None
