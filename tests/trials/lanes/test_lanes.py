"""What lanes do about the machine: its memory, and its waiting for the host."""

from dataclasses import replace

import pytest
import torch

from tests.trials.conformance import (
    CASES,
    READ_LENGTHS,
    alone,
    assert_same_reports,
    drive,
    protonet,
)
from tests.trials.double import lanes_in_double
from tests.trials.stand_ins import ON_CPU, ON_CUDA, Cramped, NoWaiting
from trials.lanes.lanes import Lanes
from trials.programs.build import OPTIMIZERS, programs


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return replace(protonet(tmp_path_factory.mktemp("data")), double=True)


def cramped(case, folder, lanes, **limits):
    (objective,) = programs(case.recipe, case.cache).args
    objective, cpu = Cramped(objective, **limits), torch.device("cpu")
    return objective, lanes_in_double(objective, lanes=lanes, folder=folder, device=cpu)


class TestOutOfMemory:
    @pytest.mark.parametrize(
        ("rows", "at_last", "error"), [(3, 2, ON_CUDA), (2, 2, ON_CPU), (1, 1, ON_CUDA)]
    )
    def test_loses_no_trial_and_changes_no_report(self, case, tmp_path, rows, at_last, error):
        specs = [case.spec(number) for number in range(7)]
        (tmp_path / "lanes").mkdir()
        _, program = cramped(case, tmp_path / "lanes", 5, error=error, rows=rows)
        stories = drive(program, specs)
        assert program.rows_per_pass == at_last
        for spec in specs:
            assert stories[spec.key].result.outcome == "complete"
            told = alone(case, spec, tmp_path / spec.key).reports
            assert_same_reports(stories[spec.key].reports, told)

    def test_in_a_later_pass_of_a_step_undoes_the_earlier_ones(self, case, tmp_path, monkeypatch):
        monkeypatch.setattr(
            "trials.lanes.step.capture.WORTH", 99
        )  # or else they could not be counted
        specs = [case.spec(number, rungs=(3,)) for number in range(4)]
        (tmp_path / "lanes").mkdir()
        # Four rows, then two and two of which the second fails, then ones.
        objective, program = cramped(case, tmp_path / "lanes", 4, error=ON_CUDA, shortages=(1, 3))
        stories = drive(program, specs)
        assert (program.rows_per_pass, objective.passes) == (1, 1 + 2 + 3 * 4)
        for spec in specs:
            told = alone(case, spec, tmp_path / spec.key).reports
            assert_same_reports(stories[spec.key].reports, told)

    def test_of_a_single_lane_ends_its_trial(self, case, tmp_path):
        _, program = cramped(case, tmp_path, 2, error=ON_CUDA, rows=0)
        story = drive(program, [case.spec(0)])[case.spec(0).key]
        assert story.result.outcome == "failed"
        assert story.result.error.startswith("OutOfMemoryError: CUDA out of memory. (")


class TestOnlySideBySide:
    """As a learner does that looks at numbers: a single lane is not mapped, and has some."""

    def test_lanes_that_fail_are_trained_one_by_one(self, case, tmp_path, caplog):
        (tmp_path / "lanes").mkdir()
        error = RuntimeError("shapes")
        _, program = cramped(case, tmp_path / "lanes", 2, error=error, rows=1)
        specs = [case.spec(number) for number in range(3)]
        stories = drive(program, specs)
        assert program.rows_per_pass == 1
        assert "one lane at a time" in caplog.text
        assert "RuntimeError: shapes" in caplog.text
        for spec in specs:
            told = alone(case, spec, tmp_path / spec.key).reports
            assert_same_reports(stories[spec.key].reports, told)

    def test_lanes_that_fail_one_by_one_too_have_all_failed(self, case, tmp_path):
        """For a reason that is none of theirs: it comes and goes."""
        objective, program = cramped(case, tmp_path, 2, error=RuntimeError("shapes"))
        objective._shortages = (1, 4)  # in the passes of a step, not in those that look for it
        program._passes.rows = 1
        stories = drive(program, [case.spec(number) for number in range(2)])
        assert {story.result.outcome for story in stories.values()} == {"failed"}


class Watched(Cramped):
    """Counts the lanes of each pass of a step."""

    def __init__(self, objective):
        super().__init__(objective, ON_CPU)
        self.sizes = []

    def batch(self, drawn):
        self.sizes.append(len(drawn[0].task))
        return super().batch(drawn)


class TestPasses:
    @pytest.mark.parametrize(("name", "sizes"), [("conv", {1}), ("protonet", {5, 2})])
    def test_are_of_one_lane_of_a_model_that_fills_a_processor(
        self, name, sizes, case_named, tmp_path
    ):
        case = case_named(name)
        making = case.programs()
        watched = Watched(*making.args)
        (tmp_path / "lanes").mkdir()
        program = making.func(watched, **making.keywords, lanes=5, folder=tmp_path / "lanes")
        drive(program, [case.spec(number) for number in range(7)])
        assert set(watched.sizes) == sizes

    @pytest.mark.parametrize(
        ("lanes", "live", "sizes"),
        [(8, 3, [3]), (8, 5, [3, 3]), (8, 8, [3, 3, 2]), (5, 5, [3, 2]), (8, 2, [2])],
    )
    def test_leave_out_what_is_not_live(self, lanes, live, sizes, case, tmp_path, monkeypatch):
        monkeypatch.setattr(
            "trials.lanes.step.capture.WORTH", 99
        )  # or else they could not be counted
        (objective,) = programs(case.recipe, case.cache).args
        cpu, watched = torch.device("cpu"), Watched(objective)
        program = Lanes(watched, lanes=lanes, folder=tmp_path, device=cpu, rows_per_pass=3)
        for number in range(live):
            program.admit(case.spec(number, rungs=(1,)))
        assert len(program.advance()) == live
        assert watched.sizes == sizes

    def test_of_many_lanes_give_what_those_of_one_do(self, case_named, tmp_path):
        case = replace(case_named("conv"), double=True)
        program = case.program(tmp_path / "lanes", lanes=4)
        assert program.rows_per_pass == 1
        program._passes.rows = 4  # as on a GPU
        specs = [case.spec(number) for number in range(5)]
        stories = drive(program, specs)
        for spec in specs:
            told = alone(case, spec, tmp_path / spec.key).reports
            assert_same_reports(stories[spec.key].reports, told)


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x[0].item(),
        lambda x: x[x > 0],
        lambda x: x + torch.tensor(2.0),
        lambda x: bool((x > 0).all()),
        lambda x: x.repeat_interleave((x > 0).long()),
    ],
)
def test_what_waits_is_recognised(wait):
    with pytest.raises(AssertionError, match="waits"), NoWaiting():
        wait(torch.ones(3))


# Programs that read the lengths of texts wait for them; to compute the padding would cost more.
PATIENT = [name for name in CASES if name not in READ_LENGTHS]


@pytest.mark.parametrize(
    ("name", "optimizer"),
    # Which optimiser it is does not depend on the program.
    [(name, "adam") for name in PATIENT] + [("protonet", o) for o in OPTIMIZERS if o != "adam"],
)
def test_between_rungs_nobody_waits(name, optimizer, case_named, tmp_path, monkeypatch):
    case = case_named(name)
    recipe = replace(case.recipe, optimizer=optimizer)
    program = case.program(tmp_path / "runs", lanes=3, recipe=recipe)
    train, stretches = program.train, []

    def watched(steps):
        with NoWaiting():
            train(steps)
        stretches.append(steps)

    drive(program, [case.spec(9, recipe=recipe, rungs=(1, 2))])  # what is made once has been made
    monkeypatch.setattr(program, "train", watched)
    drive(program, [case.spec(number, recipe=recipe, rungs=(1, 3)) for number in range(4)])
    assert sum(stretches) > 0
