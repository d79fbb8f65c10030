"""The laws of `TrialProgram`, over every program."""

import math
import shutil
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from tests.rounding import rounding
from tests.trials import stand_ins
from tests.trials.conformance import (
    CASES,
    assert_same_reports,
    drive,
    eventful,
    facts,
    maml,
    mixed,
    protonet,
    remembered,
    retried,
    taught,
)
from tests.trials.double import REPORTS
from tests.trials.stand_ins import Raising, taped
from trials.lanes import checkpoint
from trials.lanes.step.capture import Captured


@pytest.fixture(scope="module", params=CASES)
def case(request, case_named):
    return case_named(request.param)


@pytest.fixture(scope="module")
def exact(case):
    """The case in float64, for laws by which reports are equal to rounding."""
    return replace(case, double=True)


@pytest.fixture(scope="module")
def by_itself(exact, tmp_path_factory):
    """The story of a trial that has a program of one lane to itself."""
    return remembered(exact, tmp_path_factory.mktemp("alone") / "runs")


@pytest.fixture(scope="module")
def single(case, tmp_path_factory):
    """The same in float32, for tests that read what a trial alone reports."""
    return remembered(case, tmp_path_factory.mktemp("single") / "runs")


def over(*names):
    """Runs a test over some cases, and over the others where the slow tests are run too."""
    params = [pytest.param(name, marks=() if name in names else pytest.mark.slow) for name in CASES]
    return pytest.mark.parametrize("case", params, indirect=True)


# What holds of a program's queue and lanes does not depend on what it computes.
one_of_each = over("functions", "distillation")
# What else decides on a trial's state: lanes one by one, heads of their own, a teacher, a body
# that is pretrained.
of_each_state = over("conv", "mixed", "taught", "distillation", "fine_tuning", "lora")


def interrupted_at(program, step):
    """The program, which is interrupted by another thread during a step."""
    take, taken = program._step, []

    def counted(*arguments):
        take(*arguments)
        taken.append(1)
        if len(taken) == step:
            program.interrupt()

    program._step = counted
    return program


def raising(case, folder, where, lanes, spec):
    """A program that raises for the trial of `spec`, if there is one, after its first rung."""
    making = case.programs()
    own = {}
    if spec is not None:
        rate = spec.hyperparameters[case.rate]
        own = {"seed": spec.seed, "rate": rate, "step": spec.rungs[0]}
    folder.mkdir(exist_ok=True)
    return making.func(
        Raising(*making.args, where, **own), **making.keywords, lanes=lanes, folder=folder
    )


@pytest.fixture(scope="module")
def beside(case, tmp_path_factory):
    """The stories of four trials, or of all but the second; the second is stopped early."""

    @cache
    def run(with_second):
        second = case.spec(1)
        specs = [case.spec(n) for n in range(4) if with_second or n != second.number]
        program = raising(case, tmp_path_factory.mktemp("beside"), "", 3, None)
        return drive(program, specs, stops={second.key: second.rungs[0]})

    return run


@pytest.fixture(scope="module")
def trained(exact, tmp_path_factory):
    """A finalist, and the folder of its checkpoint."""
    folder, spec = tmp_path_factory.mktemp("final"), exact.spec(0, rungs=(4,), stage="final")
    drive(exact.program(folder), [spec])
    return spec, folder


def as_it_is():
    return patch("trials.lanes.step.capture.WORTH", 99)


@contextmanager
def as_a_graph():
    """With its gradient captured in it."""

    def by_address(step, device):
        return Captured(step, by=taped([]), after=2)

    with (
        patch("trials.lanes.step.capture.WORTH", 1),
        patch("trials.lanes.lanes.replayed", by_address),
    ):
        yield


def check_course(exact, by_itself, draw):
    """Compare a course of events that `draw` decides with the reports of the trials alone."""
    specs = [
        exact.spec(number, rungs=rungs)
        for number, rungs in enumerate([(1, 4), (3,), (2, 3, 6), (2, 5), (4, 5), (0, 2)])
    ]
    with TemporaryDirectory() as folder:
        stories = eventful(exact, draw(st.permutations(specs)), Path(folder), draw)
        left = {path.stem for path in Path(folder).iterdir()}
    assert left == {k for k, story in stories.items() if story.result.outcome == "complete"}
    for spec in specs:
        story = stories[spec.key]
        n_reports = len(spec.rungs) if spec.key in left else len(story.reports)
        assert_same_reports(story.reports, by_itself(spec).reports[:n_reports])


class TestEveryProgram:
    # ---- alone ------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        "lanes",
        [pytest.param(2, marks=pytest.mark.slow), 3, pytest.param(8, marks=pytest.mark.slow)],
    )
    def test_a_trial_does_not_notice_its_neighbours(self, exact, by_itself, tmp_path, lanes):
        specs = [exact.spec(number) for number in range(4)]
        stories = drive(exact.program(tmp_path, lanes=lanes), specs)
        for spec in specs:
            assert_same_reports(stories[spec.key].reports, by_itself(spec).reports)

    @of_each_state
    def test_a_trial_does_not_notice_when_it_is_admitted(self, exact, by_itself, tmp_path):
        rungs = [(2, 4, 6), (3,), (1, 3)]
        first, second, late = (exact.spec(n, rungs=own) for n, own in enumerate(rungs))
        program = exact.program(tmp_path, lanes=3)
        program.admit(first)
        program.admit(second)
        (early,) = program.advance()
        assert early.key == first.key
        stories = drive(program, [late], running=[first, second])
        stories[first.key].reports.insert(0, early)
        for spec in (first, second, late):
            assert_same_reports(stories[spec.key].reports, by_itself(spec).reports)

    def test_a_trial_does_not_notice_its_number(self, exact, tmp_path):
        spec = exact.spec(1)
        twin = replace(spec, number=40)
        stories = drive(exact.program(tmp_path, lanes=3), [spec, exact.spec(2), twin])
        assert_same_reports(stories[twin.key].reports, stories[spec.key].reports)

    def test_a_trial_is_told_from_others(self, exact, tmp_path):
        """Else the laws above would hold for a program that ignores its specs."""
        spec = exact.spec(1, rungs=(6,))
        others = [
            replace(spec, number=2, seed=spec.seed + 1),
            replace(spec, number=3, hyperparameters=exact.spec(9).hyperparameters),
        ]
        if exact.tasks:
            others.append(replace(spec, number=4, task_weights=exact.weights(9)))
        stories = drive(exact.program(tmp_path, lanes=4), [spec, *others])
        loss = stories[spec.key].reports[-1].metrics["train/loss"]
        for other in others:
            found = stories[other.key].reports[-1].metrics["train/loss"]
            assert found != pytest.approx(loss, rel=10 * REPORTS)

    def test_training_lowers_the_loss(self, case, tmp_path):
        spec = case.spec(1, rungs=(5, 20, 50))
        reports = drive(case.program(tmp_path), [spec])[spec.key].reports
        first, middle, last = (report.metrics["train/loss"] for report in reports)
        assert first > middle > last
        assert last < 0.95 * first

    @of_each_state
    @settings(max_examples=3, deadline=None, derandomize=True)
    @given(data=st.data())
    def test_any_course_of_events_gives_the_reports_of_trials_alone(self, exact, by_itself, data):
        """Admitted in any order and at any time, stopped at any rung, killed at any turn."""
        with as_it_is():
            check_course(exact, by_itself, data.draw)

    @pytest.mark.slow
    @settings(max_examples=6, deadline=None, derandomize=True)
    @given(data=st.data())
    def test_more_courses_of_events_give_the_reports_of_trials_alone(self, exact, by_itself, data):
        with as_it_is():
            check_course(exact, by_itself, data.draw)

    @pytest.mark.slow
    @settings(max_examples=3, deadline=None, derandomize=True)
    @given(data=st.data())
    def test_courses_of_events_as_a_graph_give_the_reports_of_trials_alone(
        self, exact, by_itself, data
    ):
        """Fewer courses: each captures a graph for every number of lanes that it comes to."""
        with as_a_graph():
            check_course(exact, by_itself, data.draw)

    # ---- reports and ends -------------------------------------------------------------------

    @one_of_each
    def test_every_live_trial_reports_once_at_each_rung_in_order(self, case, tmp_path):
        rungs = [(1, 2, 3), (2, 6), (5,), (3, 4), (0, 3)]
        specs = [case.spec(number, rungs=steps) for number, steps in enumerate(rungs)]
        stories = drive(case.program(tmp_path, lanes=3), specs)
        for spec in specs:
            assert tuple(report.step for report in stories[spec.key].reports) == spec.rungs
            times = [report.time for report in stories[spec.key].reports]
            assert times == sorted(times)

    @one_of_each
    def test_more_trials_than_lanes_all_end_exactly_once(self, case, tmp_path):
        specs = [case.spec(number, rungs=(1, 1 + number % 3 + 1)) for number in range(7)]
        program = case.program(tmp_path, lanes=2)
        stories = drive(program, specs, stops={specs[2].key: 1, specs[5].key: 1})
        assert program.free == 2
        assert program.advance() == []
        for spec in specs:
            result = stories[spec.key].result
            assert result.key == spec.key
            assert result.outcome == ("pruned" if spec.number in (2, 5) else "complete")
            assert result.step == stories[spec.key].reports[-1].step
            with pytest.raises(ValueError, match=spec.key):
                program.release(spec.key, "complete")

    @one_of_each
    def test_free_lanes_are_those_that_nobody_waits_for(self, case, tmp_path):
        program = case.program(tmp_path, lanes=2)
        assert (program.lanes, program.free) == (2, 2)
        for number, free in ((0, 1), (1, 0), (2, 0)):
            program.admit(case.spec(number))
            assert program.free == free
        program.advance()
        program.release(case.spec(0).key, "pruned")
        assert program.free == 0, "the third trial waits for the lane"
        program.release(case.spec(1).key, "pruned")
        assert program.free == 1

    @one_of_each
    def test_a_trial_that_waits_can_end_too(self, exact, by_itself, tmp_path):
        first, second, third = (exact.spec(number) for number in range(3))
        program = exact.program(tmp_path, lanes=1)
        for spec in (first, second, third):
            program.admit(spec)
        result = program.release(second.key, "pruned")
        assert (result.key, result.outcome, result.step) == (second.key, "pruned", 0)
        stories = drive(program, [], running=[first, third])
        assert_same_reports(stories[third.key].reports, by_itself(third).reports)

    def test_a_complete_trial_is_adapted_to_every_held_out_task(self, case, single):
        spec = case.spec(0)
        story = single(spec)
        last = story.reports[-1]
        names = {task.name for task in spec.recipe.tasks["validation"]}
        assert {a.task for a in story.result.adaptations} == names
        for adaptation in story.result.adaptations:
            assert adaptation.split == "validation"
            assert adaptation.score == last.per_task[adaptation.task]
            assert adaptation.metrics.keys() == set(case.metrics(adaptation.task))
            for metric in adaptation.metrics:
                name = f"val/{adaptation.task}/{metric}"
                assert adaptation.metrics[metric] == last.metrics[name]

    @one_of_each
    def test_a_stopped_trial_has_no_adaptations(self, case, tmp_path):
        spec = case.spec(0)
        stories = drive(case.program(tmp_path), [spec], stops={spec.key: spec.rungs[0]})
        assert stories[spec.key].result.adaptations == ()
        assert stories[spec.key].result.error is None

    @one_of_each
    def test_a_trial_past_its_last_rung_must_be_released(self, case, tmp_path):
        program = case.program(tmp_path)
        program.admit(case.spec(0, rungs=(1,)))
        program.advance()
        with pytest.raises(RuntimeError, match=r"search-0000.*release it"):
            program.advance()

    @one_of_each
    def test_there_must_be_a_lane(self, case, tmp_path):
        with pytest.raises(ValueError, match="at least 1, got 0"):
            case.program(tmp_path, lanes=0)

    @one_of_each
    @pytest.mark.parametrize("rungs", [(), (3, 2), (2, 2)])
    def test_rungs_must_ascend(self, case, tmp_path, rungs):
        program = case.program(tmp_path)
        with pytest.raises(ValueError, match="ascend"):
            program.admit(case.spec(0, rungs=rungs))
        assert program.free == 1

    # ---- the score --------------------------------------------------------------------------

    def test_the_score_is_the_plain_mean_of_the_tasks_skills(self, case, single):
        spec = case.spec(0)
        report = single(spec).reports[-1]
        skills = [estimate.mean for estimate in report.per_task.values()]
        assert report.score.mean == pytest.approx(sum(skills) / len(skills))
        for task, estimate in report.per_task.items():
            if task in case.variances:
                unexplained = report.metrics[f"val/{task}/mse"] / case.variances[task]
                # The variance is kept in float32.
                within = rounding(1, torch.float32) * unexplained
                assert estimate.mean == pytest.approx(1 - unexplained, rel=0, abs=within)
            else:
                accuracy, chance = report.metrics[f"val/{task}/accuracy"], 1 / spec.recipe.way
                assert estimate.mean == pytest.approx((accuracy - chance) / (1 - chance))

    def test_the_score_has_its_error_over_episodes_and_over_tasks(self, case, tmp_path):
        spec = case.spec(0)
        report = drive(case.program(tmp_path), [spec])[spec.key].reports[-1]
        means, errors, _ = zip(*report.per_task.values(), strict=True)
        assert report.score.standard_error == pytest.approx(math.hypot(*errors) / len(errors))
        if len(means) == 1:
            assert "score_se_tasks" not in report.metrics
        else:
            expected = np.std(means, ddof=1) / math.sqrt(len(means))
            # Of numbers that were rounded to float32, of which it is a difference.
            within = rounding(1, torch.float32) * max(map(abs, means))
            assert report.metrics["score_se_tasks"] == pytest.approx(expected, abs=within)

    def test_the_searched_weights_never_enter_the_score(self, case, tmp_path):
        """At a rate of zero both trials keep the parameters that their seed gave them."""
        if not (case.unscored or case.tasks):
            pytest.skip("nothing is searched but how fast it learns")
        still = {**case.hyperparameters, case.rate: 0.0}
        one = case.spec(0, rungs=(0, 3), hyperparameters=still)
        other = replace(
            one, number=1, hyperparameters=still | case.unscored, task_weights=case.weights(9)
        )
        stories = drive(case.program(tmp_path, lanes=2), [one, other])
        ours, theirs = (stories[spec.key].reports for spec in (one, other))
        assert ours[1].metrics["train/loss"] != theirs[1].metrics["train/loss"]
        for a, b in zip(ours, theirs, strict=True):
            assert a.score == b.score
            assert a.per_task == b.per_task

    def test_every_trial_of_a_stage_is_scored_on_the_same_episodes(self, case, tmp_path):
        still = {**case.hyperparameters, case.rate: 0.0}
        spec = case.spec(0, rungs=(1, 4), hyperparameters=still)
        first, second = drive(case.program(tmp_path), [spec])[spec.key].reports
        assert first.score == second.score

    def test_every_step_draws_its_own_examples(self, case, tmp_path):
        still = {**case.hyperparameters, case.rate: 0.0}
        spec = case.spec(0, rungs=(1, 2, 3), hyperparameters=still)
        reports = drive(case.program(tmp_path), [spec])[spec.key].reports
        assert len({report.metrics["train/loss"] for report in reports}) == 3

    # ---- isolation --------------------------------------------------------------------------

    def test_a_trial_that_diverges_fails_alone(self, exact, by_itself, tmp_path):
        specs = [exact.spec(number) for number in range(4)]
        specs[1] = replace(specs[1], hyperparameters=exact.wild)
        stories = drive(exact.program(tmp_path, lanes=3), specs)
        failed = stories.pop(specs[1].key)
        assert math.isnan(failed.reports[-1].score.mean)
        assert all(math.isnan(e.mean) for e in failed.reports[-1].per_task.values())
        assert failed.result.outcome == "failed"
        assert failed.result.adaptations == ()
        assert "diverged" in failed.result.error
        for spec in (specs[0], specs[2], specs[3]):
            assert stories[spec.key].result.outcome == "complete"
            assert_same_reports(stories[spec.key].reports, by_itself(spec).reports)

    @of_each_state
    def test_a_lane_that_diverged_is_as_good_as_new(self, exact, by_itself, tmp_path):
        wild = exact.spec(0, hyperparameters=exact.wild)
        specs = [wild, exact.spec(1), exact.spec(2)]
        stories = drive(exact.program(tmp_path, lanes=1), specs)
        for spec in specs[1:]:
            assert_same_reports(stories[spec.key].reports, by_itself(spec).reports)

    @pytest.mark.parametrize(
        ("case", "where"),
        [
            # One place for each program, and two or three programs for each place.
            pytest.param(name, where, marks=() if i % 5 == j else pytest.mark.slow)
            for i, name in enumerate(CASES)
            for j, where in enumerate(["init", "draw", "batch", "loss", "score"])
        ],
        indirect=["case"],
    )
    def test_a_trial_that_raises_fails_alone(self, case, beside, tmp_path, where):
        """To the bit: its neighbours say what they say beside one that is stopped there."""
        specs = [case.spec(number) for number in range(4)]
        broken = specs[1]
        stories = drive(raising(case, tmp_path / "raises", where, 3, broken), specs)
        expected = beside(where != "init")
        failed = stories.pop(broken.key)
        assert failed.result.outcome == "failed"
        assert len(failed.reports) == (where not in ("init", "score"))
        assert failed.result.step == (0 if where == "init" else broken.rungs[0])
        assert failed.result.checkpoint is None
        assert not (tmp_path / "raises" / f"{broken.key}.safetensors").exists()
        for key, story in stories.items():
            assert story.result.outcome == "complete"
            assert [*map(facts, story.reports)] == [*map(facts, expected[key].reports)]

    @one_of_each
    def test_what_a_trial_raised_is_told_in_a_line_and_kept(self, case, tmp_path):
        spec = case.spec(1)
        program = raising(case, tmp_path, "batch", 1, spec)
        result = drive(program, [spec])[spec.key].result
        place = f"{stand_ins.__file__}:"
        assert result.error.startswith(f"Broken: in batch ({place}")
        assert result.error.endswith(", in _look)")
        assert "\n" not in result.error
        lines = result.traceback.splitlines()
        assert lines[0] == "Traceback (most recent call last):"
        assert lines[-2:] == ["tests.trials.stand_ins.Broken: in batch", "of one trial"]
        assert len(result.traceback) < 7000

    @of_each_state
    def test_what_all_trials_raise_ends_them_all(self, case, tmp_path):
        specs = [case.spec(number, seed=7) for number in range(4)]
        program = raising(case, tmp_path, "batch", 2, specs[0])
        stories = drive(program, specs)
        assert {story.result.outcome for story in stories.values()} == {"failed"}
        assert program.free == 2
        assert program.rows_per_pass == case.program(tmp_path / "other", lanes=2).rows_per_pass
        assert program.ended() == []

    # ---- resume -----------------------------------------------------------------------------

    @of_each_state
    def test_a_trial_that_was_interrupted_says_what_it_would_have_said(
        self, exact, by_itself, tmp_path
    ):
        specs = [exact.spec(0, rungs=(2, 3, 5)), exact.spec(1, rungs=(2, 4))]
        interrupted = exact.program(tmp_path, lanes=2)
        for spec in specs:
            interrupted.admit(spec)
        before = {report.key: report for report in interrupted.advance()}
        assert before.keys() == {spec.key for spec in specs}
        again = [retried(spec) for spec in reversed(specs)]
        program = exact.program(tmp_path, lanes=3, new_process=True)
        stories = drive(program, [exact.spec(2), *again])
        assert program.lane_steps == 3 + 2 + exact.spec(2).rungs[-1], "no step is made twice"
        for spec in specs:
            reports = stories[spec.key].reports
            assert reports[0] == before[spec.key], "repeated with its time"
            assert_same_reports(reports, by_itself(spec).reports)
            assert all(a.seconds < b.seconds for a, b in pairwise(reports))

    @pytest.mark.parametrize("step", [1, 3, 4])
    def test_an_interrupted_trial_goes_on_from_its_step(self, exact, by_itself, tmp_path, step):
        """Interrupted before its first rung, between two, or at a rung before it has reported."""
        specs = [exact.spec(n, rungs=(2, 4, 6)) for n in range(2)]
        program = interrupted_at(exact.program(tmp_path, lanes=2), step)
        for spec in specs:
            program.admit(spec)
        said = {spec.key: [] for spec in specs}
        while reports := program.advance():
            for report in reports:
                said[report.key].append(report)
        assert program.advance() == [], "it trains no more"
        again = exact.program(tmp_path, lanes=2)
        stories = drive(again, [retried(spec) for spec in specs])
        assert again.lane_steps == 2 * (6 - step)
        for spec in specs:
            reports = stories[spec.key].reports
            assert reports[: len(said[spec.key])] == said[spec.key], "repeated, with their times"
            assert_same_reports(reports, by_itself(spec).reports)
            assert [r.seconds for r in reports] == sorted(r.seconds for r in reports)

    @of_each_state
    def test_steps_after_the_last_rung_are_made_again(self, exact, by_itself, tmp_path):
        slow, quick = exact.spec(0, rungs=(1, 5)), exact.spec(1, rungs=(1, 3))
        program = exact.program(tmp_path, lanes=2)
        program.admit(slow)
        program.admit(quick)
        program.advance()
        program.advance()  # slow is at step 3, and has a checkpoint of step 1
        again = drive(exact.program(tmp_path, new_process=True), [retried(slow)])
        assert_same_reports(again[slow.key].reports, by_itself(slow).reports)

    @of_each_state
    def test_a_trial_at_its_last_rung_needs_no_more_than_its_release(
        self, exact, by_itself, tmp_path
    ):
        spec = exact.spec(0)
        interrupted = exact.program(tmp_path)
        interrupted.admit(spec)
        said = [*interrupted.advance(), *interrupted.advance()]
        program = exact.program(tmp_path, new_process=True)
        story = drive(program, [retried(spec)])[spec.key]
        assert story.reports == said
        assert program.lane_steps == 0
        expected = by_itself(spec).result
        assert [a.task for a in story.result.adaptations] == [a.task for a in expected.adaptations]
        assert story.result.checkpoint is not None

    @of_each_state
    def test_a_checkpoint_of_another_spec_is_not_used(self, exact, by_itself, tmp_path):
        spec = exact.spec(0, rungs=(1, 2))
        others = [
            replace(spec, hyperparameters=exact.spec(5).hyperparameters),
            replace(spec, seed=5),
            replace(spec, recipe=replace(spec.recipe, seed=8)),
        ]
        if exact.tasks:
            others.append(replace(spec, task_weights=exact.weights(5)))
        drive(exact.program(tmp_path), [spec])
        path = checkpoint.path_of(tmp_path, spec.key)
        left = path.read_bytes()
        for other in others:
            path.write_bytes(left)
            program = exact.program(tmp_path, recipe=other.recipe)
            story = drive(program, [other])[other.key]
            assert program.lane_steps == other.rungs[-1]
            assert_same_reports(story.reports, by_itself(other).reports)

    # ---- checkpoints ------------------------------------------------------------------------

    @of_each_state
    def test_only_complete_trials_leave_a_checkpoint(self, case, tmp_path):
        specs = [case.spec(0), case.spec(1), case.spec(2, hyperparameters=case.wild)]
        stories = drive(case.program(tmp_path, lanes=3), specs, stops={specs[1].key: 2})
        assert [path.name for path in tmp_path.iterdir()] == [f"{specs[0].key}.safetensors"]
        assert stories[specs[1].key].result.checkpoint is None
        assert stories[specs[2].key].result.checkpoint is None
        tensors = load_file(stories[specs[0].key].result.checkpoint)
        assert any(name.startswith("params.") for name in tensors)
        assert all(value.isfinite().all() for value in tensors.values())
        assert int(tensors["step"]) == specs[0].rungs[-1]

    @one_of_each
    def test_a_trial_that_ends_while_it_waits_leaves_no_checkpoint(self, case, tmp_path):
        spec = case.spec(0)
        interrupted = case.program(tmp_path)
        interrupted.admit(spec)
        interrupted.advance()
        program = case.program(tmp_path, new_process=True)
        program.admit(retried(spec))
        program.release(spec.key, "pruned")
        assert list(tmp_path.iterdir()) == []

    # ---- finalists and their tests ----------------------------------------------------------

    @pytest.fixture
    def finalist(self, trained, tmp_path):
        spec, folder = trained
        shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
        return spec

    @pytest.mark.parametrize("rungs", [(4,), (2, 4)])
    def test_a_test_begins_where_the_final_ended_without_training(
        self, exact, by_itself, tmp_path, finalist, rungs
    ):
        program = exact.program(tmp_path, lanes=2)
        neighbour = exact.spec(3)
        program.admit(neighbour)
        said = program.advance()
        steps = program.lane_steps
        tested = replace(finalist, stage="test", initial=finalist.key, rungs=rungs)
        program.admit(tested)
        (report,) = program.advance()
        assert (report.key, report.step) == (tested.key, 4)
        assert program.lane_steps == steps
        assert "train/loss" not in report.metrics
        names = {task.name for task in exact.recipe.tasks["test"]}
        assert set(report.per_task) == names
        result = program.release(tested.key, "complete")
        assert {(a.task, a.split) for a in result.adaptations} == {(n, "test") for n in names}
        paths = [checkpoint.path_of(tmp_path, spec.key) for spec in (finalist, tested)]
        trained, scored = (checkpoint.parameters(path) for path in paths)
        assert trained.keys() == scored.keys()
        assert all(torch.equal(trained[name], scored[name]) for name in trained)
        said += drive(program, [], running=[neighbour])[neighbour.key].reports
        assert_same_reports(said, by_itself(neighbour).reports)

    @of_each_state
    def test_a_test_whose_finalist_is_gone_trains_it_again(self, exact, tmp_path, finalist):
        tested = replace(finalist, stage="test", initial=finalist.key, rungs=finalist.rungs[-1:])
        (before,) = drive(exact.program(tmp_path), [tested])[tested.key].reports
        (after,) = drive(exact.program(tmp_path / "empty"), [tested])[tested.key].reports
        assert_same_reports([replace(after, metrics={})], [replace(before, metrics={})])

    @of_each_state
    def test_a_test_is_the_same_alone_as_among_others(self, exact, tmp_path, finalist):
        tested = replace(finalist, stage="test", initial=finalist.key)
        hyperparameters = {**tested.hyperparameters, **exact.unscored}
        others = [
            replace(
                tested, number=n, hyperparameters=hyperparameters, task_weights=exact.weights(n)
            )
            for n in (1, 2)
        ]
        one = drive(exact.program(tmp_path), [tested])[tested.key].reports
        program = exact.program(tmp_path, lanes=4)
        stories = drive(program, [others[0], exact.spec(5), others[1]])
        for other in others:
            assert_same_reports(stories[other.key].reports, one)

    def test_stages_are_scored_on_different_queries(self, case, tmp_path):
        still = {**case.hyperparameters, case.rate: 0.0}
        search = case.spec(0, rungs=(1,), hyperparameters=still)
        stories = drive(
            case.program(tmp_path, lanes=3),
            [replace(search, stage=stage) for stage in ("search", "final", "test")],
        )
        scores = {key: story.reports[0].score for key, story in stories.items()}
        assert len(set(scores.values())) == 3

    # ---- occupancy --------------------------------------------------------------------------

    @one_of_each
    def test_occupancy_counts_live_lanes_and_all_lanes(self, case, tmp_path):
        program = case.program(tmp_path, lanes=4)
        drive(program, [case.spec(n, rungs=(2, 6)) for n in range(2)], stops={"search-0001": 2})
        assert program.lane_steps == 6 + 2
        assert program.capacity_steps == 4 * 6

    @one_of_each
    def test_full_lanes_waste_nothing(self, case, tmp_path):
        program = case.program(tmp_path, lanes=2)
        drive(program, [case.spec(n, rungs=(3,)) for n in range(6)])
        assert program.lane_steps == program.capacity_steps == 6 * 3

    @one_of_each
    def test_lane_seconds_share_the_step_between_the_lanes(self, case, tmp_path):
        specs = [case.spec(n, rungs=(5,)) for n in range(2)]
        for story in drive(case.program(tmp_path, lanes=2), specs).values():
            (report,) = story.reports
            assert report.lane_seconds == pytest.approx(report.seconds / 2)
            assert report.seconds > 0


def test_a_test_is_scored_with_its_own_hyperparameters(tmp_path):
    case = maml(tmp_path)
    final = case.spec(0, rungs=(2,), stage="final")
    drive(case.program(tmp_path / "runs"), [final])
    tested = replace(final, stage="test", initial=final.key)
    still = {**tested.hyperparameters, "lr/adapt": 0.0}
    other = replace(tested, number=1, hyperparameters=still)
    one, another = drive(case.program(tmp_path / "runs", lanes=2), [tested, other]).values()
    assert one.reports[0].score != another.reports[0].score


@pytest.mark.parametrize("make", [protonet, maml, mixed, taught])
def test_a_weight_weighs_its_own_task_and_no_other(make, tmp_path):
    """Shuffling the labels of a task shows in the losses of those trials that give it weight."""
    case = replace(make(tmp_path), double=True)
    *kept, last = case.recipe.tasks["train"]
    tasks = {**case.recipe.tasks, "train": (*kept, replace(last, corrupt="shuffle"))}
    shuffled = replace(case.recipe, tasks=tasks)
    for number, (weights, notices) in enumerate([((0.25, 0.75, 0.0), False), ((0, 0, 1), True)]):
        spec = case.spec(number, task_weights=dict(zip(case.tasks, weights, strict=True)))
        (before,) = drive(case.program(tmp_path / "a"), [spec]).values()
        program = case.program(tmp_path / "b", recipe=shuffled)
        (after,) = drive(program, [replace(spec, recipe=shuffled)]).values()
        losses = [story.reports[-1].metrics["train/loss"] for story in (before, after)]
        assert (losses[0] != pytest.approx(losses[1], rel=REPORTS)) == notices
