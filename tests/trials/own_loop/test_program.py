"""The laws of trials for the program around a user's own training loop."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from fewshot.errors.inputs import InputError
from tests.paths import ROOT
from tests.trials.conformance import drive, facts, retried
from tests.trials.own_loop import loops
from trials.contract import Component, Recipe, TaskSpec, TrainingFunction, TrialSpec
from trials.own_loop.program import OwnLoop, check_function

MODULE = "tests.trials.own_loop.loops"


def recipe(function: str = "train", timeout: float | None = None) -> Recipe:
    names = {"train": ("clean", "noise"), "validation": loops.VALIDATION, "test": loops.TEST}
    name = function if ":" in function else f"{MODULE}:{function}"
    return Recipe(
        program="own_loop",
        function=TrainingFunction(name=name, folder=str(ROOT), timeout=timeout),
        datasets={},
        tasks={split: tuple(TaskSpec(name=n) for n in names[split]) for split in names},
        model=Component(name="none"),
        learner=Component(name="none"),
        way=1,
        shot=1,
        query=1,
        episodes=0,
        validation_episodes=0,
        test_episodes=0,
    )


def spec(number=0, *, of: Recipe | None = None, rungs=(2, 4), stage="search", **changes):
    return TrialSpec(
        number=number,
        stage=stage,
        recipe=of or recipe(),
        rungs=rungs,
        **{
            "seed": 100 + number,
            "hyperparameters": {"rate": 0.1},
            "task_weights": {"clean": 0.75, "noise": 0.25},
            **changes,
        },
    )


def program(folder: Path, of: Recipe | None = None) -> OwnLoop:
    return OwnLoop(of or recipe(), folder=folder)


def plain(reports):
    """The reports without their times, as text: NaN does not equal NaN."""
    return [repr(facts(report)) for report in reports]


def files(folder: Path, key="search-0000") -> Path:
    return folder / key / "files"


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_trial_reports_once_at_each_rung(tmp_path):
    found = program(tmp_path)
    specs = [spec(0), spec(1, rungs=(1, 2, 5))]
    stories = drive(found, specs)
    for one in specs:
        story = stories[one.key]
        assert [report.step for report in story.reports] == list(one.rungs)
        assert story.result.outcome == "complete"
        last = story.reports[-1]
        assert last.score.mean == sum(e.mean for e in last.per_task.values()) / 2
        assert last.per_task.keys() == set(loops.VALIDATION)
        assert last.metrics["val/angelic/score"] == last.per_task["angelic"].mean
        adapted = {a.task: a.score.mean for a in story.result.adaptations}
        assert adapted == {task: score.mean for task, score in last.per_task.items()}
        assert (files(tmp_path, one.key) / "model.txt").exists(), "it ran to its end"
    assert (found.lane_steps, found.capacity_steps) == (9, 9)
    assert found.free == 1


def test_a_trial_depends_on_its_spec_alone(tmp_path):
    beside = drive(program(tmp_path / "beside"), [spec(1), spec(0)])["search-0000"]
    alone = drive(program(tmp_path / "alone"), [spec(0)])["search-0000"]
    assert plain(beside.reports) == plain(alone.reports)


@pytest.mark.parametrize("rung", [1, 2, 3])
def test_a_trial_resumes_from_its_last_report(tmp_path, rung):
    one = spec(rungs=(2, 4, 6))
    whole = drive(program(tmp_path / "whole"), [one])[one.key]
    first = program(tmp_path)
    first.admit(one)
    before = [report for _ in range(rung) for report in first.advance()]
    del first
    second = program(tmp_path)
    second.admit(retried(one))
    assert repr(second.advance()) == repr(before), "with their times"
    story = drive(second, [], running=[one])[one.key] if rung < 3 else None
    after = story.reports if story else []
    reports = [*before, *after]
    assert plain(reports) == plain(whole.reports)
    seconds = [report.seconds for report in reports]
    assert seconds == sorted(seconds)
    steps = (files(tmp_path) / "steps.txt").read_text().split()
    assert steps == ["1", "2", "3", "4", "5", "6"], "no step is repeated"
    assert second.lane_steps == 6 - one.rungs[rung - 1]


@pytest.mark.parametrize("damage", ["", "{", '{"identity": "other", "reports": []}'])
def test_a_damaged_file_of_reports_starts_the_trial_anew(tmp_path, damage):
    whole = drive(program(tmp_path), [spec()])["search-0000"]
    (tmp_path / "search-0000" / "reports.json").write_text(damage)
    again = drive(program(tmp_path), [spec()])["search-0000"]
    assert plain(again.reports) == plain(whole.reports)
    assert len((files(tmp_path) / "steps.txt").read_text().split()) == 4


def test_the_folder_of_a_different_trial_is_not_used(tmp_path):
    drive(program(tmp_path), [spec()])
    drive(program(tmp_path), [spec(seed=7)])
    assert len((files(tmp_path) / "steps.txt").read_text().split()) == 4


@pytest.mark.parametrize("how", range(len(loops.FAILURES)), ids=list(loops.FAILURES))
def test_a_trial_fails_alone_and_says_why(tmp_path, how):
    reason = list(loops.FAILURES)[how]
    failing = recipe("fails", timeout=10)
    bad = spec(0, of=failing, hyperparameters={"how": float(how)})
    stories = drive(program(tmp_path, failing), [bad, spec(1)])
    result = stories[bad.key].result
    assert result.outcome == "failed"
    assert result.error.startswith(reason)
    assert (result.step, len(stories[bad.key].reports)) == (2, 1)
    assert "\n" not in result.error
    if "Error" in reason:
        assert "loops.py" in result.error, "the place in the user's code"
        assert result.traceback.startswith("Traceback")
    assert stories["search-0001"].result.outcome == "complete"


def test_a_full_disk_is_no_failure_of_the_trial(tmp_path):
    filling = recipe("fills_the_disk")
    one = spec(of=filling)
    full = program(tmp_path, filling)
    full.admit(one)
    before = full.advance()
    assert [report.step for report in before] == [2]
    process = full._live._process._process
    with pytest.raises(OSError, match="No space left on device") as caught:
        full.advance()
    place = r"A file of the training function \(.*loops.py:\d+, in fills_the_disk\)"
    assert re.fullmatch(place, caught.value.filename)
    assert full.ended() == []
    assert process.poll() is not None
    (files(tmp_path) / "space").touch()
    story = drive(program(tmp_path, filling), [retried(one)])[one.key]
    assert story.reports[0].time == before[0].time, "repeated with its time"
    assert story.result.outcome == "complete"


def test_a_full_disk_at_the_import_is_no_failure_of_the_trial(tmp_path):
    (tmp_path / "importing.py").write_text("open('/dev/full', 'w', buffering=1).write('data\\n')")
    of = recipe("importing:train")
    of = replace(of, function=replace(of.function, folder=str(tmp_path)))
    found = program(tmp_path / "runs", of)
    found.admit(spec(of=of))
    with pytest.raises(OSError, match="No space left on device"):
        found.advance()
    assert found.ended() == []


def test_the_last_output_of_a_process_that_ended_is_kept(tmp_path):
    failing = recipe("fails")
    how = list(loops.FAILURES).index("its process exited with code 4")
    story = drive(program(tmp_path, failing), [spec(of=failing, hyperparameters={"how": how})])
    assert story["search-0000"].result.traceback == "the last words"


def test_a_pruned_trial_cleans_up(tmp_path):
    cleaning = recipe("cleans_up")
    found = program(tmp_path, cleaning)
    result = drive(found, [spec(of=cleaning)], stops={"search-0000": 2})["search-0000"].result
    assert (result.outcome, result.step, result.adaptations) == ("pruned", 2, ())
    assert (files(tmp_path) / "cleaned").exists()


def test_a_queued_trial_can_be_released(tmp_path):
    found = program(tmp_path)
    found.admit(spec(0))
    assert found.free == 0
    assert found.release("search-0000", "pruned").step == 0
    assert found.free == 1
    assert found.advance() == []
    with pytest.raises(ValueError, match="No live trial"):
        found.release("search-0000", "pruned")


def test_prints_go_to_the_log_of_the_trial(tmp_path, capfd):
    printing = recipe("prints")
    drive(program(tmp_path, printing), [spec(of=printing)])
    log = (tmp_path / "search-0000" / "log.txt").read_text()
    assert log == f"to the output {ROOT}\nto the errors\n"
    assert capfd.readouterr() == ("", "")


def test_an_interruption_ends_the_process_and_the_trial_goes_on_elsewhere(tmp_path):
    own = spec(rungs=(2, 4))
    interrupted = program(tmp_path)
    interrupted.admit(own)
    before = interrupted.advance()
    assert [report.step for report in before] == [2]
    process = interrupted._live._process._process
    interrupted.interrupt()
    assert interrupted.advance() == []
    assert interrupted.ended() == []
    assert process.poll() is not None
    story = drive(program(tmp_path), [retried(own)])[own.key]
    assert story.reports[0].time == before[0].time, "repeated with its time"
    assert story.result.outcome == "complete"


def test_an_interruption_does_not_wait_for_a_function_that_hangs(tmp_path):
    hanging = recipe("hangs")
    found = program(tmp_path, hanging)
    found.admit(spec(of=hanging, rungs=(2,)))
    timer = threading.Timer(3, found.interrupt)
    timer.start()
    assert found.advance() == []
    assert found.ended() == []
    timer.join()


def test_processes_that_a_function_starts_end_with_the_trial(tmp_path, monkeypatch):
    monkeypatch.setattr("trials.own_loop.process._CLOSE_SECONDS", 0.5)
    starting = recipe("starts_a_process", timeout=8)
    found = program(tmp_path, starting)
    found.admit(spec(of=starting, rungs=(2,)))
    assert found.advance() == [], "it does not end after its last report"
    assert "trial_timeout" in found.ended()[0].error
    pids = [int(pid) for pid in (files(tmp_path) / "pids").read_text().split()]
    assert len(pids) == 2
    wait_until(lambda: not any(map(running, pids)))


@pytest.mark.parametrize("function", ["starts_a_process", "holds_the_lock"])
def test_nothing_runs_on_when_the_process_of_the_search_is_killed(tmp_path, function):
    text = f"""
import sys
from pathlib import Path
from tests.trials.own_loop.test_program import program, recipe, spec
found = program(Path(sys.argv[1]), recipe({function!r}))
found.admit(spec(of=recipe({function!r}), rungs=(2,)))
found.advance()
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", text, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, env=environment) as driver:
        place = files(tmp_path) / "pids"
        wait_until(lambda: place.exists() and place.read_text(), 60)
        pids = [int(pid) for pid in place.read_text().split()]
        assert all(map(running, pids))
        driver.send_signal(signal.SIGKILL)
    wait_until(lambda: not any(map(running, pids)), 5)


def test_a_program_that_is_dropped_leaves_no_process(tmp_path):
    starting = recipe("starts_a_process")
    found = program(tmp_path, starting)
    found.admit(spec(of=starting))
    assert found.advance()
    pids = [int(pid) for pid in (files(tmp_path) / "pids").read_text().split()]
    del found
    wait_until(lambda: not any(map(running, pids)))


def test_a_test_run_has_the_test_scores_of_the_last_yield(tmp_path):
    found = program(tmp_path)
    final = spec(3, stage="final", rungs=(4,))
    story = drive(found, [final])[final.key]
    assert "runic" not in story.reports[-1].per_task
    assert not any("runic" in name for name in story.reports[-1].metrics)
    test = spec(0, stage="test", rungs=(4,), initial=final.key)
    tested = drive(found, [test])[test.key]
    (report,) = tested.reports
    assert (report.step, report.score.mean) == (4, 100.0)
    assert dict(report.metrics) == {"test/runic/score": 100.0}
    assert [(a.task, a.split) for a in tested.result.adaptations] == [("runic", "test")]
    assert found.lane_steps == 4


def test_only_a_retrained_finalist_needs_test_scores(tmp_path):
    without = recipe("without_tests")
    final = spec(0, of=without, stage="final", rungs=(4,))
    stories = drive(program(tmp_path, without), [spec(0, of=without), final])
    assert stories["search-0000"].result.outcome == "complete"
    assert stories[final.key].result.error == "it yielded no score for runic at step 4"
    lost = spec(0, stage="test", rungs=(4,), initial="final-0007")
    error = drive(program(tmp_path), [lost])[lost.key].result.error
    assert error == "the scores of final-0007 on the test tasks are lost"


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("nothing", "but tests.trials.own_loop.loops has none of this name"),
        ("no_generator", "must be a generator function"),
        ("no.such.module:train", "is in a module that is not found: no"),
        ("tests.trials.own_loop.exits:train", "its process exited with code 5"),
    ],
)
def test_a_function_that_cannot_be_used_is_refused(function, message):
    with pytest.raises(InputError) as caught:
        check_function(recipe(function))
    (detail,) = caught.value.details
    assert detail.path == "program"
    assert message in str(detail)


def test_a_folder_that_does_not_exist_is_refused(tmp_path):
    missing = TrainingFunction(name="loop:train", folder=str(tmp_path / "none"))
    with pytest.raises(InputError, match="path: must be an existing folder"):
        check_function(replace(recipe(), function=missing))
    check_function(recipe())


def test_a_spec_survives_json_and_other_recipes_keep_their_fingerprints():
    one = spec(of=recipe(timeout=3.5))
    assert TrialSpec.from_json(one.to_json()) == one
    assert recipe().fingerprint != recipe("fails").fingerprint
    before = json.loads(one.to_json())
    del before["recipe"]["function"]
    assert TrialSpec.from_json(json.dumps(before)).recipe.function is None


def test_scores_may_be_tensors(tmp_path):
    import numpy as np
    import torch

    from trials.own_loop.scores import BadScores, checked_scores

    found = {"a": torch.tensor(0.5), "b": np.float32(0.25), "c": np.array([2])}
    assert checked_scores(found, "abc", ()) == {"a": 0.5, "b": 0.25, "c": 2.0}
    for wrong in (True, None, "1", torch.zeros(2), math.inf, [1.0, 2.0]):
        with pytest.raises(BadScores, match="for a"):
            checked_scores({"a": wrong}, "a", ())
