"""A captured function does what the function does, and draws ahead are the draws themselves."""

import logging

import pytest
import torch
from torch.utils._pytree import tree_leaves

from tests.trials.conformance import CASES, READ_LENGTHS, drive, functions, protonet
from trials.lanes.step.capture import Captured
from trials.lanes.step.draws import draws
from trials.lanes.step.mapping import over_lanes
from trials.programs.build import programs

# A single lane is not mapped. The default tests capture these in a single lane, and the others in
# two; the slow tests capture each in both.
SINGLE = ("conv", "fine_tuning", "maml", "mixed", "ridge")


@pytest.mark.parametrize(
    ("name", "lanes"),
    [
        pytest.param(
            name, lanes, marks=() if (lanes == 1) == (name in SINGLE) else pytest.mark.slow
        )
        for name in CASES
        for lanes in (1, 2)
    ],
)
def test_every_step_can_be_captured_and_changes_no_report(
    name, lanes, case_named, tmp_path, monkeypatch, caplog
):
    case = case_named(name)
    specs = [case.spec(number, rungs=(1, 4)) for number in range(lanes)]
    monkeypatch.setattr("trials.lanes.step.capture.WORTH", 10**9)
    never = drive(case.program(tmp_path / "never", lanes=lanes), specs)
    monkeypatch.setattr("trials.lanes.step.capture.WORTH", 1)
    calls = []

    def counting(loss):
        return lambda *arguments: calls.append(1) or over_lanes(loss)(*arguments)

    monkeypatch.setattr("trials.lanes.step.gradient.over_lanes", counting)
    at_once = drive(case.program(tmp_path / "at_once", lanes=lanes), specs)
    # A step that reads the lengths of texts is not captured.
    assert len(calls) <= 2 or name in READ_LENGTHS
    assert "not captured error" not in caplog.text
    for spec in specs:
        pairs = zip(never[spec.key].reports, at_once[spec.key].reports, strict=True)
        for one, other in pairs:
            assert one.score == other.score  # to the bit
            assert one.metrics == other.metrics


def counted(function):
    """It, captured, and the calls that reach it."""
    calls = []

    def told(*arguments):
        calls.append(arguments)
        return function(*arguments)

    return Captured(told), calls


class TestCaptured:
    @pytest.fixture(autouse=True)
    def soon(self, monkeypatch):
        monkeypatch.setattr("trials.lanes.step.capture.WORTH", 2)

    def test_is_not_called_again_for_a_shape_that_it_knows(self):
        function, calls = counted(lambda x, y: {"sum": (x + y["y"]).sum()})
        for n in range(6):
            found = function(torch.full((3,), float(n)), {"y": torch.ones(3)})
            assert found["sum"].item() == 3 * (n + 1)
        known = len(calls)
        assert function(torch.zeros(3), {"y": torch.ones(3)})["sum"] == 3
        assert len(calls) == known

    @pytest.mark.parametrize(
        "other", [torch.ones(4), torch.ones(3, dtype=torch.double), torch.ones(1, 3)]
    )
    def test_another_shape_or_type_is_another_function(self, other):
        function, _ = counted(lambda x: x * len(x))
        for _ in range(4):
            function(torch.ones(3))
        found = function(other)
        assert found.dtype == other.dtype
        assert torch.equal(found, other * len(other))

    def test_what_looks_at_values_is_called_as_it_is(self, caplog):
        caplog.set_level(logging.INFO)
        function, _ = counted(lambda x: x if x.sum().item() > 0 else -x)
        for sign in (1.0, -1.0, 1.0, -1.0, -1.0):
            assert function(torch.full((2,), sign)).tolist() == [1.0, 1.0]
        assert caplog.text.count("not captured") == 1

    def test_what_finds_a_number_of_places_is_called_as_it_is(self, caplog):
        caplog.set_level(logging.INFO)
        function, _ = counted(lambda x: x[x > 0].sum())
        for n in (1, 2, 3, 3):
            assert function(torch.tensor([1.0] * n + [-1.0] * (3 - n))).item() == n
        assert caplog.text.count("not captured") == 1

    def test_what_writes_does_so_in_each_call(self):
        function, calls = counted(lambda x: torch.tensor([1.0, 2.0]).add_(x).view(2).mul_(x))
        for n in range(6):
            assert function(torch.tensor([float(n), 1.0])).tolist() == [(1 + n) * n, 3.0]
        assert len(calls) < 6

    def test_constants_are_told_apart(self):
        first, second = torch.tensor([2.0, 3.0]), torch.tensor([5.0, 7.0])

        def product(x):
            doubled = x * 2
            found = (doubled + 1) * first
            del doubled  # as many tensors are alive as before there was the first constant
            return found * second

        function, _ = counted(product)
        for n in range(6):
            x = torch.full((2,), float(n))
            assert torch.equal(function(x), product(x))

    @pytest.mark.parametrize(
        "joined",
        [
            lambda a, b: torch.cat([a, b], 1),
            lambda a, b: torch.cat([b, a], 1),
            lambda a, b: torch.cat([a, a, b], 1),
            lambda a, b: torch.cat([a], 1),
            lambda a, b: torch.cat([a.T, b.T]).T,
        ],
    )
    def test_parts_that_are_joined_again(self, joined):
        def cubed(x):
            with torch.enable_grad():
                found = joined(*x.requires_grad_().split([1, 2], 1)).pow(3)
                return found.detach(), *torch.autograd.grad(found.sum(), x)

        function, calls = counted(cubed)
        for n in range(6):
            x = torch.arange(6.0).view(2, 3) + n
            assert all(map(torch.equal, function(x.clone()), cubed(x)))
        assert len(calls) < 6

    def test_what_is_random_is_drawn_in_each_call(self):
        function, _ = counted(lambda x: x + torch.rand(3))
        drawn = [function(torch.zeros(3)) for _ in range(6)]
        assert len({tuple(x.tolist()) for x in drawn}) == 6

    def test_an_error_is_that_of_the_function(self):
        function, _ = counted(torch.linalg.inv)
        for _ in range(4):
            function(torch.eye(2))
        with pytest.raises(torch.linalg.LinAlgError):
            function(torch.zeros(2, 2))


@pytest.mark.parametrize("make", [protonet, functions])
def test_draws_ahead_are_those_of_each_step(make, tmp_path):
    case = make(tmp_path)
    (objective,) = programs(case.recipe, case.cache).args
    seeds, steps = torch.tensor([3, 4]), torch.tensor([0, 7])
    weights = torch.full((2, len(objective.tasks)), 0.5)
    ahead = draws(objective.draw, seeds, steps, weights, 35)
    for _ in range(35):
        found, expected = next(ahead), objective.draw(seeds, steps, weights)
        assert all(map(torch.equal, tree_leaves(found), tree_leaves(expected)))
        steps += 1
    assert next(ahead, None) is None
