import math
import multiprocessing
import subprocess
import sys
import time
from collections import Counter
from multiprocessing.context import ForkProcess
from multiprocessing.synchronize import Event
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from fewshot.errors.inputs import FewtuneError, InputError
from orchestrator.record.studies.study import StudyRecord, open_storage, read_study
from orchestrator.space.search_space import Range

BOX = {"lr/outer": Range(1e-4, 1e-1, log=True), "lambda.ilr1": Range(-2, 2)}
PARAMS = {"lr/outer": 0.01, "lambda.ilr1": 0.5}


@pytest.fixture
def journal(tmp_path: Path) -> str:
    return str(tmp_path / "studies" / "toy.journal")


def test_what_is_asked_reported_and_finished_is_read_back(journal: str) -> None:
    with open_storage(journal) as storage:
        record = StudyRecord.open(storage, "toy", BOX)
        asked = record.ask(PARAMS, {"candidate": 3})
        assert (asked.number, asked.state, asked.params) == (0, "running", PARAMS)
        assert math.isnan(asked.score)
        record.report(0, 3, 0.25)
        record.report(0, 6, 0.5)
        record.finish(0, "complete", 0.5, {"reason": "done", "tasks": {"lao": {"skill": [0.5]}}})
        record.note("steps", [1, 2])
    found = read_study(journal, "toy")
    (trial,) = found.trials()
    assert (trial.number, trial.state, trial.params) == (0, "complete", PARAMS)
    assert trial.reports == {3: 0.25, 6: 0.5}
    assert trial.score == 0.5
    tasks = {"lao": {"skill": [0.5]}}
    assert trial.notes == {"candidate": 3, "reason": "done", "tasks": tasks}
    assert found.notes["steps"] == [1, 2]


@pytest.mark.parametrize("outcome", ["complete", "pruned", "failed"])
def test_a_trial_that_has_ended_stays_as_it_is(journal: str, outcome: str) -> None:
    with open_storage(journal) as storage:
        record = StudyRecord.open(storage, "toy", BOX)
        record.ask(PARAMS)
        record.report(0, 3, 0.25)
        record.finish(0, outcome, 0.25, {"reason": "first"})
        record.finish(0, "failed", 0.9, {"reason": "second"})
        record.finish(0, "complete", 0.9, {"reason": "third"})
        (trial,) = record.trials()
    assert (trial.state, trial.notes) == (outcome, {"reason": "first"})


@pytest.mark.filterwarnings("error")
def test_the_first_report_for_a_step_stays(journal: str) -> None:
    with open_storage(journal) as storage:
        record = StudyRecord.open(storage, "toy", BOX)
        record.ask(PARAMS)
        record.report(0, 3, 0.25)
        record.report(0, 3, 0.75)
        assert record.trials()[0].reports == {3: 0.25}


def test_a_diverged_score_is_kept_as_nan(journal: str) -> None:
    with open_storage(journal) as storage:
        record = StudyRecord.open(storage, "toy", BOX)
        record.ask(PARAMS)
        record.report(0, 3, math.nan)
        record.finish(0, "failed", math.nan, {})
    (trial,) = read_study(journal, "toy").trials()
    assert trial.state == "failed"
    assert math.isnan(trial.reports[3])


def test_each_adoption_is_another_attempt(journal: str) -> None:
    with open_storage(journal) as storage:
        StudyRecord.open(storage, "toy", BOX).ask(PARAMS)
    for attempt in (1, 2, 3):
        with open_storage(journal) as storage:
            record = StudyRecord.open(storage, "toy", BOX)
            assert record.adopt(0) == attempt
            assert record.trials()[0].notes["attempt"] == attempt


def test_a_lock_that_another_left_behind_holds_nobody_up(journal: str) -> None:
    with open_storage(journal) as storage:
        StudyRecord.open(storage, "toy", BOX)
    Path(journal + ".lock").symlink_to(journal)
    begun = time.monotonic()
    with open_storage(journal) as storage:
        StudyRecord.open(storage, "toy", BOX).ask(PARAMS)
    assert time.monotonic() - begun < 5


def test_what_is_held_is_what_would_be_read(journal: str) -> None:
    with open_storage(journal) as storage:
        record, other = (
            StudyRecord.open(storage, "toy", BOX),
            StudyRecord.open(storage, "toy/final", {}),
        )
        for number, outcome in enumerate(("complete", "pruned", "failed", None)):
            assert record.ask(PARAMS, {"candidate": number}) == record[number]
            other.ask({}, {"candidate": 1})
            record.adopt(number)
            record.report(number, 3, 0.25)
            record.note("steps", [number, 7])
            if outcome is not None:
                record.finish(number, outcome, 0.25, {"reason": None, "tasks": {"lao": [0.5]}})
            found = read_study(journal, "toy")
            assert found.trials() == record.trials()
            assert (found.notes, len(found)) == (record.notes, number + 1)
        assert read_study(journal, "toy/final").trials() == other.trials()


def test_the_file_is_one_that_optunas_own_backend_can_go_on_with(journal: str) -> None:
    with open_storage(journal) as storage:
        StudyRecord.open(storage, "toy", BOX).ask(PARAMS)
    theirs = JournalStorage(JournalFileBackend(journal))
    optuna.load_study(study_name="toy", storage=theirs).tell(0, 0.5)
    with open_storage(journal) as storage:
        record = StudyRecord.open(storage, "toy", BOX)
        assert record[0].state == "complete"
        assert record.ask(PARAMS).number == 1


def test_what_was_kept_is_forced_to_the_disk_once(journal: str, monkeypatch) -> None:
    synced: list[int] = []
    with open_storage(journal) as storage:
        record = StudyRecord.open(storage, "toy", BOX)
        monkeypatch.setattr("os.fsync", synced.append)
        record.ask(PARAMS)
        record.report(0, 3, 0.25)
        assert synced == []
        record.sync()
        record.sync()
        assert len(synced) == 1


@pytest.mark.parametrize(
    "url",
    ["nonsense://x", "://x", "sqlite:////nowhere/at/all/x.db", "nosuchdriver+postgresql://h/x"],
)
def test_a_url_that_no_database_has_is_the_users_fault(url: str) -> None:
    with pytest.raises(InputError, match="FEWTUNE_STORAGE: can't be used"), open_storage(url):
        pass
    with pytest.raises(InputError, match="FEWTUNE_STORAGE: can't be used"):
        read_study(url, "toy")


def test_what_goes_wrong_later_is_not_taken_for_a_bad_url(tmp_path: Path) -> None:
    with pytest.raises(ImportError, match="torch"), open_storage(f"sqlite:///{tmp_path / 'x.db'}"):
        raise ImportError("torch")


def test_a_database_keeps_a_study_too(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'x.db'}"
    with open_storage(url) as storage:
        record = StudyRecord.open(storage, "toy", BOX)
        record.ask(PARAMS)
        record.report(0, 3, 0.25)
        record.finish(0, "pruned", 0.25, {})
    assert read_study(url, "toy").trials() == record.trials()


def test_there_is_nothing_to_read_where_there_is_no_study(journal: str) -> None:
    assert read_study(journal, "toy") is None
    assert not Path(journal).exists()
    with open_storage(journal) as storage:
        StudyRecord.open(storage, "toy", BOX)
    assert read_study(journal, "other") is None
    assert read_study(journal, "toy").trials() == []


def test_wherever_a_crash_cut_the_journal_off_the_study_goes_on(journal: str) -> None:
    """Between any two lines, and in the middle of one."""
    with open_storage(journal) as storage:
        record = StudyRecord.open(storage, "toy", BOX)
        for number in range(2):
            record.ask(PARAMS | {"lambda.ilr1": float(number)}, {"candidate": number})
            record.report(number, 3, 0.25)
            record.finish(number, "complete", 0.25, {"reason": "done"})
    lines = Path(journal).read_bytes().splitlines(keepends=True)
    assert len(lines) > 8
    for n in range(len(lines)):
        for torn in (b"", lines[n][: len(lines[n]) // 2]):
            Path(journal).write_bytes(b"".join(lines[:n]) + torn)
            with open_storage(journal) as storage:
                record = StudyRecord.open(storage, "toy", BOX)
                for trial in record.trials():
                    assert trial.params.keys() == BOX.keys()
                    if trial.state == "running":
                        assert record.adopt(trial.number) == 1
                for number in range(len(record), 2):
                    record.ask(PARAMS | {"lambda.ilr1": float(number)})
                for number in range(2):
                    record.report(number, 3, 0.25)
                    record.finish(number, "complete", 0.25, {})
                kept = optuna.load_study(study_name="toy", storage=storage).trials
                assert all(t.params.keys() == BOX.keys() for t in kept)
            found = read_study(journal, "toy").trials()
            assert [t.state for t in found] == ["complete"] * 2
            assert [t.params["lambda.ilr1"] for t in found] == [0.0, 1.0]
            assert all(t.reports == {3: 0.25} for t in found)


@pytest.mark.parametrize(
    "garbage", [b"\x00\x00\x00", b'{"op_code":4,"wor', b"", b"7", b"{}", b'"\xff"', b"[[]]"]
)
def test_a_garbled_line_of_the_journal_is_named_with_the_way_to_go_on(
    journal: str, garbage: bytes
) -> None:
    with open_storage(journal) as storage:
        record = StudyRecord.open(storage, "toy", BOX)
        for number in range(3):
            record.ask(PARAMS)
            record.report(number, 3, 0.25)
    lines = Path(journal).read_bytes().splitlines(keepends=True)
    lines[3] = garbage + b"\n"  # of the second trial
    Path(journal).write_bytes(b"".join(lines))
    said = []
    for use in (lambda: read_study(journal, "toy"), lambda: open_storage(journal).__enter__()):
        with pytest.raises(FewtuneError) as error:
            use()
        said.append(str(error.value))
    assert said[0] == said[1]
    assert f"Line 4 of {journal} can't be read" in said[0]
    assert "\n" not in said[0]
    command = said[0].split("`")[1]
    subprocess.run(command, shell=True, check=True)
    with open_storage(journal) as storage:
        record = StudyRecord.open(storage, "toy", BOX)
        assert len(record) == 1
        assert record.ask(PARAMS).number == 1
    assert len(read_study(journal, "toy")) == 2


def test_a_last_line_that_is_garbage_does_not_spoil_what_is_written_after_it(journal: str) -> None:
    with open_storage(journal) as storage:
        StudyRecord.open(storage, "toy", BOX).ask(PARAMS)
    with Path(journal).open("ab") as file:
        file.write(b"\x00\x00\n")
    with open_storage(journal) as storage:
        StudyRecord.open(storage, "toy", BOX).ask(PARAMS)
    assert len(read_study(journal, "toy")) == 2


def _write(journal: str, lanes: int, ready: Event) -> None:
    with open_storage(journal) as storage:
        record = StudyRecord.open(storage, "toy", BOX)
        live = [t.number for t in record.trials() if t.state == "running"]
        for number in live:
            record.adopt(number)
        ready.set()
        while True:
            while len(live) < lanes:
                live.append(record.ask(PARAMS).number)
            number = live.pop(0)
            record.report(number, 3, 0.5)
            record.finish(number, "complete", 0.5, {"reason": "done"})


def _writing(journal: str, lanes: int) -> ForkProcess:
    """A copy of this process, because a new one imports Optuna for seconds."""
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    child = context.Process(target=_write, args=(journal, lanes, ready), daemon=True)
    child.start()
    assert ready.wait(30)
    return child


def test_a_study_is_readable_while_it_is_written_and_after_kill_9(journal: str) -> None:
    lanes, before = 3, 0
    for _ in range(2):
        child = _writing(journal, lanes)
        try:
            seen, deadline = [0], time.monotonic() + 30
            while seen[-1] < before + 10 and time.monotonic() < deadline:
                seen.append(len(read_study(journal, "toy").trials()))
        finally:
            child.kill()
            child.join()
        assert seen == sorted(seen)
        found = read_study(journal, "toy").trials()
        assert [t.number for t in found] == list(range(len(found)))
        states = Counter(t.state for t in found)
        assert states["running"] <= lanes
        assert states["complete"] > before
        assert states.keys() <= {"running", "complete"}
        before = states["complete"]
    with open_storage(journal) as storage:
        record = StudyRecord.open(storage, "toy", BOX)
        record.ask(PARAMS)
        assert len(record.trials()) >= len(found)


def test_optunas_own_command_line_reads_the_study(journal: str) -> None:
    with open_storage(journal) as storage:
        record = StudyRecord.open(storage, "toy", BOX)
        record.ask(PARAMS)
        record.report(0, 3, 0.25)
        record.finish(0, "pruned", 0.25, {})
    program = str(Path(sys.executable).parent / "optuna")

    def say(*arguments: str) -> str:
        command = [program, *arguments, "--storage", journal]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert "toy" in say("studies", "-f", "json")
    trials = say("trials", "--study-name", "toy", "-f", "json")
    assert "PRUNED" in trials
    assert "0.01" in trials
