"""The record of a search is written to MLflow again, on the real MLflow."""

import json
from pathlib import Path

import pytest

from fewshot.errors.inputs import InputError
from orchestrator.cli.app import main
from orchestrator.mlflow_record import resent
from orchestrator.record.home import Home
from orchestrator.tracking.mlflow_client import connect
from orchestrator.tracking.sending.mlflow_sender import recorder
from tests.orchestrator import records
from tests.orchestrator.tracking.test_mlflow_sender import points, runs


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with a search whose record MLflow has."""
    home = Home(tmp_path_factory.mktemp("home"))
    folder = home.search("demo")
    folder.mkdir(parents=True)
    home.config("demo").write_text("name: demo\n")
    home.identity("demo").write_text(json.dumps({"id": "0a", "storage": ""}))
    connect(home.tracking_uri)
    made = recorder(folder, home.tracking_uri, "0a")
    records.whole(made, ["complete", "pruned", "failed"])
    assert made.drain(timeout=300)
    made.close()
    return home


def _facts(home: Path) -> dict[str, object]:
    """What each run has, but for the ids of the runs."""
    facts: dict[str, object] = {}
    for key, run in runs(home).items():
        tags = {name: value for name, value in run.data.tags.items() if "parent" not in name}
        times = (run.info.start_time, run.info.end_time)
        facts[key] = (run.info.status, times, run.data.metrics, run.data.params, tags)
    return facts


def test_a_record_that_is_sent_again_leaves_the_same_runs(home: Home) -> None:
    before, n_points = runs(home.path), points(home.path)
    left: list[int] = []
    for _ in range(2):
        assert resent("demo", home, waiting=left.append)
        assert points(home.path) == n_points
        assert {key: run.to_dictionary() for key, run in runs(home.path).items()} == {
            key: run.to_dictionary() for key, run in before.items()
        }
    assert left == sorted(left, reverse=True) or max(left) <= len(before)


def test_runs_that_were_deleted_and_a_database_that_was_deleted_are_made_again(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    before, n_points = _facts(home.path), points(home.path)
    client = connect(home.tracking_uri)
    deleted = runs(home.path)["demo/search-0000/validation/greek"].info.run_id
    client.delete_run(deleted)
    assert main(["sync", "demo", "--home", str(home.path)]) == 0
    assert "MLflow has all runs of demo" in capsys.readouterr().err
    assert _facts(home.path) == before
    moved = home.path / "elsewhere"  # the client of this process keeps the file open
    moved.mkdir()
    for path in home.path.glob("mlflow.db*"):
        path.rename(moved / path.name)
    made_again = Home(home.path.rename(home.path.with_name("again")))
    for _ in range(2):
        assert main(["sync", "demo", "--home", str(made_again.path)]) == 0
        assert _facts(made_again.path) == before
        assert points(made_again.path) == n_points
    made_again.path.rename(home.path)


def test_a_search_without_a_record_is_refused(home: Home, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must be the name of a search"):
        resent("other", home)
    (home.search("demo") / "outbox.jsonl").rename(tmp_path / "outbox.jsonl")
    try:
        with pytest.raises(InputError, match="whose record is gone"):
            resent("demo", home)
    finally:
        (tmp_path / "outbox.jsonl").rename(home.search("demo") / "outbox.jsonl")
