import json
import logging
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.tracking.dashboard import _free_port, server, tracking_uri
from orchestrator.tracking.mlflow_client import connect
from orchestrator.tracking.mlflow_runs import OutboxRecorder
from orchestrator.tracking.sending import mlflow_sender as tracking
from orchestrator.tracking.sending.mlflow_sender import counts, recorder
from orchestrator.tracking.sending.outbox import Outbox
from tests.orchestrator import records

SEARCH = "0a"  # the id of the search
WHOLE = {
    "search": {"FINISHED": 1},
    "trial": {"FINISHED": 1, "KILLED": 1, "FAILED": 1},
    "adaptation": {"FINISHED": 2},
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    connect(tracking_uri(tmp_path))  # here, where the database is a copy
    return tmp_path


@pytest.fixture
def folder(home: Path) -> Path:
    return home / "searches" / "demo"


def record(folder: Path, uri: str, **options: Any) -> OutboxRecorder:
    """Record a whole search, wait until it is to be seen, close."""
    made = recorder(folder, uri, SEARCH)
    records.whole(made, **options)
    assert made.drain(timeout=600)
    made.close()
    return made


def test_a_database_that_was_not_set_up_to_its_end_is_set_up_anew(
    tmp_path, mlflow_set_up, monkeypatch, capfd
):
    monkeypatch.setattr("orchestrator.tracking.mlflow_client._set_up", mlflow_set_up)
    uri = tracking_uri(tmp_path)
    # A copy of this process, because a new one imports MLflow for seconds.
    process = multiprocessing.get_context("fork").Process(target=connect, args=(uri,))
    process.start()
    while process.is_alive() and not [*tmp_path.glob("mlflow.db*-journal")]:
        time.sleep(0.01)
    process.kill()
    process.join()
    assert not (tmp_path / "mlflow.db").exists(), "it was killed while it made tables"
    assert connect(uri).get_experiment_by_name("Default") is not None
    assert capfd.readouterr() == ("", "")
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert not [*tmp_path.glob("mlflow.db.new*")]


def runs(home: Path) -> dict[str, Any]:
    """All runs by key; no key has two."""
    client = connect(tracking_uri(home))
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(ids, max_results=1000)
    by_key = {run.data.tags["fewtune.key"]: run for run in found}
    assert len(by_key) == len(found)
    return by_key


def points(home: Path) -> int:
    with sqlite3.connect(home / "mlflow.db") as database:
        return int(database.execute("SELECT count(*) FROM metrics").fetchone()[0])


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.3)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the record of a whole search, which tests only read."""
    home = tmp_path_factory.mktemp("recorded")
    table = home / "trials.csv"
    table.write_text("number,score\n")
    made = record(home / "searches" / "demo", tracking_uri(home), artifacts=[table])
    assert made.rejected == 0
    return home


def test_the_load_of_workers_is_a_system_metric_of_the_search(home, folder):
    made = recorder(folder, tracking_uri(home), SEARCH)
    records.started(made)
    for at in (1.5, 31.5, 31.5):  # told again, nothing changes
        made.worker_load(0, {"cpu_percent": 100 + at}, time=records.START + at)
    made.worker_load(1, {"cpu_percent": 7.0}, time=records.START + 1.5)
    assert made.drain(timeout=600)
    made.close()
    run = runs(home)["demo"].info.run_id
    client = connect(tracking_uri(home))
    history = client.get_metric_history(run, "system/worker_0/cpu_percent")
    assert [(m.timestamp / 1000 - records.START, m.value) for m in history] == [
        (1.5, 101.5),
        (31.5, 131.5),
    ]
    assert client.get_run(run).data.metrics["system/worker_1/cpu_percent"] == 7.0


class TestWhatIsToBeSeen:
    def test_every_trial_and_adaptation_is_one_run(self, recorded: Path) -> None:
        assert counts(tracking_uri(recorded), "demo") == WHOLE
        found = runs(recorded)
        assert sorted(found) == [
            "demo",
            "demo/search-0000",
            "demo/search-0000/validation/greek",
            "demo/search-0000/validation/korean",
            "demo/search-0001",
            "demo/search-0002",
        ]
        trial = found["demo/search-0000"]
        assert trial.data.tags["mlflow.parentRunId"] == found["demo"].info.run_id
        task = found["demo/search-0000/validation/greek"]
        assert task.data.tags["mlflow.parentRunId"] == trial.info.run_id
        assert task.data.params["task"] == "greek"
        assert task.data.metrics["accuracy"] == 0.4
        assert task.info.end_time - task.info.start_time == 2000

    def test_metrics_are_kept_for_every_rung(self, recorded: Path) -> None:
        run = runs(recorded)["demo/search-0000"]
        history = connect(tracking_uri(recorded)).get_metric_history(run.info.run_id, "score")
        assert [(point.step, point.value, point.timestamp) for point in history] == [
            (step, records.report(0, step).score.mean, round(1000 * records.report(0, step).time))
            for step in (10, 20)
        ]
        assert set(run.data.metrics) == {
            *("score", "score_se", "score_low", "score_high"),
            *("train/loss", "val/greek/accuracy", "val/korean/accuracy"),
        }
        assert run.data.params["log10_lr/outer"] == "-1.0000"
        assert run.data.params["lambda/cyrillic"] == "1"

    def test_what_lags_behind_takes_one_batch_for_each_run(
        self, home: Path, folder: Path, monkeypatch: Any
    ) -> None:
        from mlflow import MlflowClient

        real, batches = MlflowClient.log_batch, Counter[str]()

        def log_batch(self: Any, run_id: str, *args: Any, **options: Any) -> Any:
            batches[run_id] += 1
            return real(self, run_id, *args, **options)

        monkeypatch.setattr(MlflowClient, "log_batch", log_batch)
        record(folder, tracking_uri(home), outcomes=["complete"] * 6)
        found = runs(home)
        assert batches[found["demo/search-0005"].info.run_id] == 1
        assert sum(batches.values()) < 1.5 * len(found)
        assert points(home) == 6 * 2 * 7 + 12 * 6 + 1

    def test_the_reason_of_an_end_is_told(self, recorded: Path) -> None:
        found = runs(recorded)
        assert "best third" in found["demo/search-0001"].data.tags["mlflow.note.content"]
        assert found["demo/search-0002"].data.tags["fewtune.error"] == "loss is NaN"
        assert found["demo/search-0002"].data.tags["fewtune.state"] == "failed"

    def test_the_search_shows_its_last_score(self, recorded: Path) -> None:
        assert runs(recorded)["demo"].data.metrics["score"] == 0.4

    def test_artifacts_lie_in_the_home_folder(self, recorded: Path) -> None:
        run = runs(recorded)["demo"].info
        assert (recorded / "mlartifacts" / run.run_id / "artifacts" / "trials.csv").is_file()

    def test_a_table_is_one_that_mlflow_loads(
        self, home: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = home / "explanation.json"
        path.write_text(
            '{"columns": ["task", "effect"], "data": [["greek", 0.1], ["latin", null]]}'
        )
        made = recorder(folder, tracking_uri(home), SEARCH)
        records.started(made)
        made.search_ended(
            state="complete",
            metrics={},
            artifacts=[],
            time=records.START + 1,
            tables=[path],
            tags={"fewtune.helps": "greek", "fewtune.harms": ""},
        )
        assert made.drain(timeout=600)
        made.close()
        run = runs(home)["demo"]
        assert run.data.tags["fewtune.helps"] == "greek"
        assert run.data.tags["fewtune.harms"] == ""
        monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri(home))
        table = connect(tracking_uri(home)).load_table(
            run.info.experiment_id, path.name, [run.info.run_id]
        )
        assert list(table.task) == ["greek", "latin"]
        assert json.loads(run.data.tags["mlflow.loggedArtifacts"])[0]["type"] == "table"

    def test_views_of_the_search_are_saved_once(self, recorded: Path) -> None:
        assert tracking.ensure_saved_views(tracking_uri(recorded), "glyphs", "demo")
        tags = connect(tracking_uri(recorded)).get_experiment_by_name("glyphs").tags
        assert sum(name.startswith("mlflow.sharedViewState.") for name in tags) == 3

    @pytest.mark.slow
    def test_nothing_is_printed(self, tmp_path: Path) -> None:
        program = """
            import sys
            from pathlib import Path
            from orchestrator.tracking.sending.mlflow_sender import recorder
            from tests.orchestrator import records
            made = recorder(Path(sys.argv[1]) / "demo", f"sqlite:///{sys.argv[1]}/mlflow.db", "0a")
            assert "mlflow" not in sys.modules
            records.whole(made)
            sys.exit(not made.drain(600))
        """
        command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


class TestAgain:
    def test_sending_the_whole_outbox_again_changes_nothing(self, home: Path, folder: Path) -> None:
        record(folder, tracking_uri(home))
        before, n_points = runs(home), points(home)
        (folder / "outbox.sent").unlink()
        record(folder, tracking_uri(home))
        assert points(home) == n_points
        assert {key: run.to_dictionary() for key, run in runs(home).items()} == {
            key: run.to_dictionary() for key, run in before.items()
        }

    def test_without_the_ledger_runs_are_found_by_their_key(self, home: Path, folder: Path) -> None:
        record(folder, tracking_uri(home))
        n_points = points(home)
        (folder / "mlflow_runs.jsonl").unlink()
        (folder / "outbox.sent").unlink()
        record(folder, tracking_uri(home))
        assert counts(tracking_uri(home), "demo") == WHOLE
        assert points(home) == n_points

    def test_the_best_trial_is_marked_and_a_former_one_is_not(
        self, home: Path, folder: Path
    ) -> None:
        made = recorder(folder, tracking_uri(home), SEARCH)
        records.started(made)
        for number in (0, 1):
            records.trial(made, number, "complete")
        for i, best in enumerate(("search-0000", "search-0001", "search-0001")):
            made.search_ended(
                state="complete",
                metrics={},
                artifacts=[],
                time=records.START + 100 + i,
                answer="The weights are better.",
                best=best,
            )
        assert made.drain(timeout=600)
        made.close()
        found = runs(home)
        former, chosen = found["demo/search-0000"], found["demo/search-0001"]
        assert (former.info.run_name, former.data.tags["fewtune.best"]) == ("search-0000", "no")
        assert chosen.info.run_name == "search-0001 (best)"
        assert chosen.data.tags["fewtune.best"] == "yes"
        assert "exported" in chosen.data.tags["mlflow.note.content"]
        assert chosen.info.status == "FINISHED"
        assert found["demo"].data.tags["mlflow.note.content"] == "The weights are better."

    def test_a_search_goes_on_in_its_run(self, home: Path, folder: Path) -> None:
        record(folder, tracking_uri(home))
        made = recorder(folder, tracking_uri(home), SEARCH)
        changed = {"trials": 6, "eta": 3.0, "new": 1}
        later = records.START + 2000
        made.search_started(name="demo", experiment="glyphs", params=changed, tags={}, time=later)
        assert made.drain(timeout=600)
        run = runs(home)["demo"]
        assert run.info.status == "RUNNING"
        assert run.data.tags["fewtune.attempt"] == "1"
        assert run.data.params == {"trials": "3", "eta": "3", "new": "1"}
        records.trial(made, 3, "complete")
        made.search_ended(state="complete", metrics={}, artifacts=[], time=later + 100)
        assert made.drain(timeout=600)
        made.close()
        found = runs(home)
        assert found["demo"].info.end_time == round(1000 * (later + 100))
        parent = found["demo/search-0003"].data.tags["mlflow.parentRunId"]
        assert parent == found["demo"].info.run_id
        assert counts(tracking_uri(home), "demo")["trial"]["FINISHED"] == 2

    def test_a_trial_that_is_admitted_again_stays_one_run(self, home: Path, folder: Path) -> None:
        made = recorder(folder, tracking_uri(home), SEARCH)
        records.started(made)
        records.trial(made, 0, "failed")
        made.trial_started(records.spec(0, attempt=1), time=records.START + 500)
        made.reported(records.report(0, 10))
        assert made.drain(timeout=600)
        run = runs(home)["demo/search-0000"]
        assert (run.info.status, run.data.tags["fewtune.attempt"]) == ("RUNNING", "1")
        made.trial_ended(records.result(0, "complete"), state="complete")
        assert made.drain(timeout=600)
        made.close()
        assert runs(home)["demo/search-0000"].info.status == "FINISHED"
        assert points(home) == 7 + 2 * 6

    def test_a_trial_that_is_left_does_not_run_until_it_is_taken_up(
        self, home: Path, folder: Path
    ) -> None:
        made = recorder(folder, tracking_uri(home), SEARCH)
        records.started(made)
        seen = []
        for attempt in (0, 1):
            spec, at = records.spec(0, attempt), records.START + 100 * attempt
            made.trial_started(spec, time=at)
            assert made.drain(timeout=600)
            seen.append(runs(home)["demo/search-0000"].info.status)
            for _ in range(2):  # the same call twice is one
                made.trial_interrupted(spec, time=at + 50)
            assert made.drain(timeout=600)
            run = runs(home)["demo/search-0000"]
            seen.append((run.info.status, run.info.end_time))
            assert run.data.tags["fewtune.state"] == "interrupted"
        made.close()
        ends = [round(1000 * (records.START + at)) for at in (50, 150)]
        assert seen == ["RUNNING", ("KILLED", ends[0]), "RUNNING", ("KILLED", ends[1])]

    def test_runs_that_were_deleted_are_told_anew(self, home: Path, folder: Path) -> None:
        record(folder, tracking_uri(home))
        client = connect(tracking_uri(home))
        for run in runs(home).values():
            client.delete_run(run.info.run_id)
        assert counts(tracking_uri(home), "demo") == {}
        made = recorder(folder, tracking_uri(home), SEARCH)
        records.started(made, time=records.START + 2000)
        wait_for(lambda: counts(tracking_uri(home), "demo").get("trial") == WHOLE["trial"])
        made.close()

    def test_a_new_database_is_told_everything(self, home: Path, folder: Path) -> None:
        record(folder, tracking_uri(home))
        other = home / "other"
        other.mkdir()
        made = recorder(folder, tracking_uri(other), SEARCH)
        records.started(made, time=records.START + 2000)
        wait_for(lambda: counts(tracking_uri(other), "demo").get("trial") == WHOLE["trial"])
        assert made.drain(timeout=600)
        made.close()
        assert counts(tracking_uri(other), "demo") == WHOLE | {"search": {"RUNNING": 1}}

    def test_two_searches_of_one_name_on_one_server_have_runs_of_their_own(
        self, home: Path, folder: Path
    ) -> None:
        record(folder, tracking_uri(home))
        other = home / "other" / "searches" / "demo"
        made = recorder(other, tracking_uri(home), "1b")
        records.whole(made, ["complete"])
        assert made.drain(timeout=600)
        made.close()
        (other / "mlflow_runs.jsonl").unlink()
        (other / "outbox.sent").unlink()
        made = recorder(other, tracking_uri(home), "1b")
        records.started(made, time=records.START + 2000)
        assert made.drain(timeout=600)
        made.close()
        client = connect(tracking_uri(home))
        ids = [experiment.experiment_id for experiment in client.search_experiments()]
        found = client.search_runs(ids, max_results=1000)
        own = Counter(run.data.tags["fewtune.search_id"] for run in found)
        assert own == {"0a": 1 + 3 + 2, "1b": 1 + 1 + 2}
        by_id = {run.info.run_id: run for run in found}
        for run in found:
            assert run.data.tags["fewtune.search"] == "demo"
            if parent := run.data.tags.get("mlflow.parentRunId"):
                tags = by_id[parent].data.tags
                assert tags["fewtune.search_id"] == run.data.tags["fewtune.search_id"]


class TestTrouble:
    def test_a_lost_answer_makes_no_second_run(
        self, home: Path, folder: Path, monkeypatch: Any
    ) -> None:
        from mlflow import MlflowClient

        real, failed = MlflowClient.create_run, set()

        def create_run(self: Any, *args: Any, **options: Any) -> Any:
            run = real(self, *args, **options)
            if options["run_name"] not in failed:
                failed.add(options["run_name"])
                raise ConnectionError("the answer was lost")
            return run

        monkeypatch.setattr(MlflowClient, "create_run", create_run)
        record(folder, tracking_uri(home))
        assert len(failed) == 6
        assert counts(tracking_uri(home), "demo") == WHOLE

    def test_what_mlflow_rejects_is_counted_and_the_rest_goes_on(
        self, home: Path, folder: Path, caplog: Any
    ) -> None:
        made = recorder(folder, tracking_uri(home), SEARCH)
        records.started(made)
        nowhere = [home / "nowhere"]
        made.search_ended(state="failed", metrics={}, artifacts=nowhere, time=records.START + 1)
        records.trial(made, 0, "complete")
        made.reported(replace(records.report(0, 30), metrics={"": 1.0}))
        assert made.drain(timeout=600)
        made.close()
        assert made.rejected == 2
        assert "mlflow_rejects" in caplog.text
        found = counts(tracking_uri(home), "demo")
        assert found["search"] == {"FAILED": 1}
        assert found["trial"] == {"FINISHED": 1}

    def test_an_event_that_no_version_wrote_does_not_block_what_follows(
        self, home: Path, folder: Path, caplog: Any
    ) -> None:
        made = OutboxRecorder(Outbox(folder))
        records.started(made)
        records.trial(made, 0, "complete")
        made.close()
        lines = (folder / "outbox.jsonl").read_bytes().splitlines(keepends=True)
        good = json.loads(lines[1])
        changes: list[dict[str, Any]] = [
            {"colour": "red"},
            {"time": "noon"},
            {"metrics": {"score": "high"}},
            {"metrics": 3},
            {"kind": "party"},
            {"params": None},
            {"artifacts": [1]},
            {"status": 7},
        ]
        bad = [good | {"id": str(i)} | change for i, change in enumerate(changes)]
        bad.append({"id": "search/step/x/score"})
        texts = [json.dumps(event).encode() + b"\n" for event in bad]
        (folder / "outbox.jsonl").write_bytes(b"".join([lines[0], *texts, *lines[1:]]))
        (folder / "mlflow_runs.jsonl").write_text(f'["uri","{tracking_uri(home)}"]\n7\n["a"]\n')
        made = recorder(folder, tracking_uri(home), SEARCH)
        assert made.drain(timeout=600)
        made.close()
        assert made.rejected == len(bad) == caplog.text.count("outbox_rejects")
        assert "unknown colour" in caplog.text
        kept = (folder / "outbox.rejected.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in kept] == bad
        found = counts(tracking_uri(home), "demo")
        assert (found["trial"], found["adaptation"]) == ({"FINISHED": 1}, {"FINISHED": 2})

    def test_a_password_is_not_written_down(self, folder: Path, caplog: Any) -> None:
        port = _free_port("127.0.0.1", 0)
        made = recorder(folder, f"http://me:secret@127.0.0.1:{port}", SEARCH)
        records.started(made)
        wait_for(lambda: "mlflow_away" in caplog.text)
        made.close()
        assert "secret" not in caplog.text
        assert not any("secret" in path.read_text() for path in folder.iterdir())

    def test_a_search_does_not_wait_for_a_server_that_is_away(self, folder: Path) -> None:
        made = recorder(folder, f"http://127.0.0.1:{_free_port('127.0.0.1', 0)}", SEARCH)
        start = time.monotonic()
        records.whole(made)
        assert time.monotonic() - start < 1
        assert not made.drain(timeout=0.1)
        assert made.backlog() == 14
        made.close()
        assert made.rejected == 0

    def test_kill_9_in_the_middle_loses_nothing_and_doubles_nothing(
        self, home: Path, folder: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        program = """
            import sys, time
            from pathlib import Path
            from orchestrator.tracking.sending.mlflow_sender import recorder
            from tests.orchestrator import records
            made = recorder(Path(sys.argv[1]), sys.argv[2], "0a")
            assert "mlflow" not in sys.modules
            records.whole(made, ["complete"] * 8)
            time.sleep(60)
        """
        command = [sys.executable, "-c", textwrap.dedent(program), str(folder), tracking_uri(home)]
        with subprocess.Popen(command) as child:
            while not (folder / "outbox.sent").exists():
                assert child.poll() is None
                time.sleep(0.01)
            time.sleep(0.4)
            os.kill(child.pid, signal.SIGKILL)
        assert capfd.readouterr() == ("", "")
        made = recorder(folder, tracking_uri(home), SEARCH)
        assert made.backlog() > 0
        records.whole(made, ["complete"] * 8)
        assert made.drain(timeout=600)
        made.close()
        assert capfd.readouterr() == ("", "")
        assert len(runs(home)) == 1 + 8 + 16
        assert counts(tracking_uri(home), "demo") == {
            "search": {"FINISHED": 1},
            "trial": {"FINISHED": 8},
            "adaptation": {"FINISHED": 16},
        }
        assert points(home) == 8 * 2 * 7 + 16 * 6 + 1

    @pytest.mark.slow
    def test_a_server_that_comes_up_late_is_told_everything(
        self, home: Path, folder: Path, caplog: Any
    ) -> None:
        caplog.set_level(logging.WARNING)
        port = _free_port("127.0.0.1", 0)
        report = home / "report.md"
        report.write_text("# Report")
        made = recorder(folder, f"http://127.0.0.1:{port}", SEARCH)
        records.whole(made, artifacts=[report])
        time.sleep(5)
        assert not made.drain(timeout=0)
        late = server(home, port)
        try:
            assert late.base == f"http://127.0.0.1:{port}"
            assert made.drain(timeout=600)
        finally:
            late.close()
            made.close()
        assert "mlflow_away" in caplog.text
        assert counts(tracking_uri(home), "demo") == WHOLE
        assert list((home / "mlartifacts").rglob("report.md"))
