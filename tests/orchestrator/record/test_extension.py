"""More trials for a search: what is refused, what MLflow shows, what a kill leaves."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from orchestrator import InputError, Search, Stopped, list_searches
from orchestrator.record import identity
from orchestrator.record.home import Home
from orchestrator.record.search_records import read_records
from orchestrator.sampling.sampler import Sampler
from tests.orchestrator import toys
from tests.orchestrator.cli.test_cli import called
from tests.orchestrator.test_api import SMALL, mlflow_client, runs, small
from tests.orchestrator.tiny import quiet
from tests.paths import ROOT

__all__ = ["called"]  # a fixture


@pytest.fixture(scope="module")
def ended(tmp_path_factory) -> Search:
    made = small(tmp_path_factory.mktemp("ended"))
    made.run(executor="inline")
    return made


@pytest.fixture
def home(ended, tmp_path):
    return shutil.copytree(ended.home, tmp_path / "home")


def test_an_ended_search_gets_more_trials_and_ends_again(home, capfd) -> None:
    before = small(home).trials()
    n_runs = len(runs(mlflow_client(small(home))))
    search = small(home)
    assert sum(search.run(executor="inline", resume=True, trials=10).trials.values()) == 10
    assert search.config["search"]["trials"] == 10
    assert search.trials().iloc[:6].drop(columns="reason").equals(before.drop(columns="reason"))
    found = list_searches(home)[0]
    assert (found.state, found.trials, found.planned) == ("complete", 10, 10)
    keys = [run.data.tags["fewtune.key"] for run in runs(mlflow_client(search))]
    assert len(keys) == len(set(keys)) > n_runs
    (of_search,) = (
        run for run in runs(mlflow_client(search)) if run.data.tags["fewtune.kind"] == "search"
    )
    assert of_search.info.status == "FINISHED"
    assert of_search.data.tags["fewtune.trials"] == "10"
    assert of_search.data.params["trials"] == "6", "MLflow keeps the first value"
    assert "params_keep_first_value" not in capfd.readouterr().err
    # The file says 6 still; the search keeps its ten.
    again = small(home)
    again.run(executor="inline")
    assert len(again.trials()) == again.config["search"]["trials"] == 10
    assert Search.open("functions", home=home).config["search"]["trials"] == 10


def test_the_number_may_also_be_changed_in_the_config(home) -> None:
    with pytest.raises(InputError, match="Add `--resume`"):
        small(home, "search.trials=8").run(executor="inline")
    small(home, "search.trials=8").run(executor="inline", resume=True)
    assert len(small(home).trials()) == 8


@pytest.mark.parametrize(
    ("trials", "resume", "said"),
    [
        (5, True, "--trials: must be at least 6, the number of trials .* planned; 6 have ended"),
        (0, True, "--trials: must be at least 6"),
        (12, False, "--trials: is for a search that was started before.*Add `--resume`"),
    ],
)
def test_a_number_that_makes_no_sense_is_refused(home, trials, resume, said) -> None:
    with pytest.raises(InputError, match=said):
        small(home).run(executor="inline", resume=resume, trials=trials)
    assert small(home).summary().state == "complete"


def test_fewer_trials_in_the_config_and_other_changes_are_refused(home, tmp_path) -> None:
    with pytest.raises(InputError, match="was 6 when the search was started; now it is 5"):
        small(home, "search.trials=5").run(executor="inline", resume=True)
    with pytest.raises(InputError) as error:
        small(home, "steps=13").run(executor="inline", resume=True, trials=12)
    assert {detail.path for detail in error.value.details} == {"name", "steps"}
    with pytest.raises(InputError, match="no such search"):
        small(tmp_path / "empty").run(executor="inline", resume=True, trials=12)


def test_a_resumed_search_may_have_other_workers(home) -> None:
    other = ("search.workers=[{count: 2}, {count: 1, cpus: 2}]", "search.worker_timeout=60")
    with pytest.raises(
        InputError, match=r"search\.worker_timeout: .*to continue with other workers"
    ):
        small(home, *other).run(executor="inline", trials=None)
    small(home, *other).run(executor="inline", resume=True, trials=8)
    assert len(Search.open("functions", home=home).config["search"]["workers"]) == 2
    # It has ended; an ended search can be asked for again, too.
    summary = small(home, "search.trials=8").run(executor="inline", resume=True)
    assert sum(summary.trials.values()) == 8
    with pytest.raises(InputError, match=r"search\.lanes"):
        small(home, "search.trials=8", "search.lanes=3").run(executor="inline", resume=True)


@pytest.mark.parametrize("kept", range(3))
def test_a_kill_between_the_notes_of_an_extension_leaves_a_search_to_resume(
    home, monkeypatch, kept
) -> None:
    notes = []
    note = identity.StudyRecord.note

    def noting(record, key, value):
        if key in ("state", identity.FORMER, identity.CONFIG):
            if len(notes) == kept:
                raise KeyboardInterrupt
            notes.append(key)
        note(record, key, value)

    monkeypatch.setattr(identity.StudyRecord, "note", noting)
    with pytest.raises(KeyboardInterrupt):
        small(home).run(executor="inline", resume=True, trials=8)
    monkeypatch.setattr(identity.StudyRecord, "note", note)
    assert notes == ["state", identity.FORMER, identity.CONFIG][:kept]
    summary = small(home).run(executor="inline", resume=True, trials=8)
    assert summary.state == "complete"
    assert len(small(home).trials()) == 8


def test_an_interrupted_search_gets_more_trials(tmp_path) -> None:
    turns = []
    with pytest.raises(Stopped):
        small(tmp_path).run(
            executor="inline", should_stop=lambda: len(turns) > 0 or turns.append(1)
        )
    search = small(tmp_path)
    assert sum(search.run(executor="inline", resume=True, trials=8).trials.values()) == 8


def words(home):
    """The command that goes on with the search of `ended`."""
    sets = [word for text in SMALL for word in ("--set", text)]
    config = ROOT / "configs" / "functions.yaml"
    return ["search", config, "--home", home, *sets, "--executor", "inline", "--json"]


def command(home, *more):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "orchestrator.cli", *map(str, words(home)), *more],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_search_that_is_killed_while_it_goes_on_can_be_resumed(home, called) -> None:
    for more in range(2):
        process = command(home, "--resume", "--trials", "24")
        while process.poll() is None and started(home) < 8 + 4 * more:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    last = called(*words(home), "--resume")  # without the number
    assert last.returncode == 0, last.stderr
    shown = json.loads(last.stdout.splitlines()[-1])
    assert sum(shown["trials"].values()) == 24
    assert shown["state"] == "complete"
    found = runs(mlflow_client(Search.open("functions", home=home)))
    keys = [run.data.tags["fewtune.key"] for run in found]
    assert len(keys) == len(set(keys))
    assert {run.info.status for run in found} <= {"FINISHED", "KILLED"}
    refused = called(*words(home), "--resume", "--trials", "23")
    assert refused.returncode == 2
    assert "must be at least 24" in refused.stderr


def started(home) -> int:
    try:
        records = read_records("functions", Home(home))
    except Exception:  # a line of the journal is half-written
        return 0
    return 0 if records is None else len(records.search)


@pytest.fixture
def stopped_early(tmp_path, monkeypatch) -> Search:
    """A search that ended after 18 of 20 trials by `search.stop`."""
    monkeypatch.setattr("orchestrator.tracking.sending.mlflow_sender.recorder", quiet)
    monkeypatch.setattr(Sampler, "expected_gain", lambda *_: (0.0, 1.0))
    monkeypatch.setattr(Sampler, "suggest", toys.quick_suggest)
    made = small(tmp_path, "steps=2", *TWENTY)
    assert made.run(executor="inline").stopped_early
    assert len(made.trials()) == 18
    return made


TWENTY = ["search.trials=20", "search.stop=auto", "search.lanes=1"]


def test_a_search_that_stopped_early_goes_on_to_the_planned_number(stopped_early, called) -> None:
    home = stopped_early.home
    with pytest.raises(InputError, match=r"at least 20.*planned; 18 have ended, and stopped early"):
        small(home, "steps=2", *TWENTY).run(executor="inline", resume=True, trials=19)
    answer = called("enqueue", "functions", "--set", "lr/outer=0.005", "--home", home)
    assert "stopped early, after 18 of 20 trials" in answer.stderr
    assert "--resume --trials 20" in answer.stderr
    same = small(home, "steps=2", *TWENTY).run(executor="inline", resume=True)
    assert sum(same.trials.values()) == 18, "without a number the search has ended"
    summary = small(home, "steps=2", *TWENTY).run(executor="inline", resume=True, trials=20)
    assert (summary.state, summary.stopped_early) == ("complete", "")
    table = small(home).trials()
    assert len(table) == 20
    assert table["lr/outer"].iloc[18] == 0.005, "the enqueued trial is run"
