"""What lanes do about the machine: its memory, and its waiting for the host."""

from dataclasses import replace

import pytest
import torch

from tests.trials.conformance import CASES, alone, assert_same_reports, drive, protonet
from tests.trials.stand_ins import NoWaiting
from trials.build import OPTIMIZERS, programs
from trials.lanes import Lanes

ON_CUDA = torch.OutOfMemoryError("CUDA out of memory.")
ON_CPU = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")


class Cramped:
    """An objective that has no memory for more than `rows` lanes, or at the `shortages`-th steps.

    A step looks its examples up once in each pass.
    """

    def __init__(self, objective, error, *, rows=99, shortages=()):
        self._objective, self._error, self._rows = objective, error, rows
        self._shortages, self.passes = shortages, 0

    def __getattr__(self, name):
        return getattr(self._objective, name)

    def batch(self, drawn):
        self.passes += 1
        if len(drawn[0].task) > self._rows or self.passes in self._shortages:
            raise self._error
        return self._objective.batch(drawn)

    def score(self, params, hyper, stage):
        if len(next(iter(params.values()))) > self._rows:
            raise self._error
        return self._objective.score(params, hyper, stage)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return protonet(tmp_path_factory.mktemp("data"))


def cramped(case, folder, lanes, **limits):
    (objective,) = programs(case.recipe, case.cache).args
    objective = Cramped(objective, **limits)
    return objective, Lanes(objective, lanes=lanes, folder=folder, device=torch.device("cpu"))


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
        monkeypatch.setattr("trials.capture.WORTH", 99)  # or else they could not be counted
        specs = [case.spec(number, rungs=(3,)) for number in range(4)]
        (tmp_path / "lanes").mkdir()
        # Four rows, then two and two of which the second fails, then ones.
        objective, program = cramped(case, tmp_path / "lanes", 4, error=ON_CUDA, shortages=(1, 3))
        stories = drive(program, specs)
        assert (program.rows_per_pass, objective.passes) == (1, 1 + 2 + 3 * 4)
        for spec in specs:
            told = alone(case, spec, tmp_path / spec.key).reports
            assert_same_reports(stories[spec.key].reports, told)

    def test_of_a_single_lane_can_not_be_helped(self, case, tmp_path):
        _, program = cramped(case, tmp_path, 2, error=ON_CUDA, rows=0)
        program.admit(case.spec(0))
        with pytest.raises(torch.OutOfMemoryError):
            program.advance()

    def test_is_not_what_every_error_is(self, case, tmp_path):
        _, program = cramped(case, tmp_path, 2, error=RuntimeError("shapes"), rows=1)
        program.admit(case.spec(0))
        program.admit(case.spec(1))
        with pytest.raises(RuntimeError, match="shapes"):
            program.advance()
        assert program.rows_per_pass == 2


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


# A transformer looks how long its texts are, which costs less than to read their padding.
PATIENT = [name for name in CASES if name != "fine_tuning"]


@pytest.mark.parametrize("name", PATIENT)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_between_rungs_nobody_waits(name, optimizer, tmp_path, monkeypatch):
    case = CASES[name](tmp_path)
    recipe = replace(case.recipe, optimizer=optimizer)
    program = case.program(tmp_path / "runs", lanes=3, recipe=recipe)
    train, stretches = program.train, []

    def watched(steps):
        with NoWaiting():
            train(steps)
        stretches.append(steps)

    drive(program, [case.spec(9, recipe=recipe)])  # what is made once has been made
    monkeypatch.setattr(program, "train", watched)
    drive(program, [case.spec(number, recipe=recipe) for number in range(4)])
    assert sum(stretches) > 0
