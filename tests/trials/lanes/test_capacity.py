"""How many lanes are of use."""

import math
from functools import partial

import pytest
import torch

from tests.trials.conformance import protonet
from tests.trials.stand_ins import ON_CPU, Cramped
from trials.lanes import memory
from trials.lanes.capacity import smallest_fast_enough, useful_lanes
from trials.programs.build import programs


class TestKnee:
    @pytest.mark.parametrize(
        ("rates", "lanes"),
        [
            ((1, 2, 4, 8, 16), 16),
            ((1, 1, 1, 1, 1), 1),
            ((1, 0.5, 0.4), 1),
            ((1, 1.04, 1.02), 1),
            ((1, 1.8, 3, 3.1, 3.14, 9), 4),
            ((1, 1.05, 2, 3.5, 3.6), 8),
            ((1, 2, 0, 9), 2),
            ((0,), 1),
        ],
    )
    def test_is_where_more_lanes_are_hardly_faster(self, rates, lanes):
        asked = []

        def rate(k):
            asked.append(k)
            return rates[int(math.log2(k))]

        assert smallest_fast_enough(rate, 2 ** (len(rates) - 1)) == lanes
        assert asked == [2**i for i in range(len(asked))]

    @pytest.mark.parametrize(("at_most", "lanes"), [(1, 1), (2, 2), (3, 2), (11, 8)])
    def test_is_no_more_than_what_is_of_use(self, at_most, lanes):
        assert smallest_fast_enough(float, at_most) == lanes


class TestUsefulLanes:
    def found(self, tmp_path, **changes):
        case = protonet(tmp_path)
        return useful_lanes(partial(programs, case.recipe, case.cache), case.spec(0), **changes)

    def test_are_a_power_of_two_within_bounds(self, tmp_path, monkeypatch):
        monkeypatch.setattr("trials.lanes.capacity._MEASURED", 0.02)
        assert self.found(tmp_path, at_most=5) in (1, 2, 4)

    def test_are_bounded_by_the_memory_that_is_left(self, tmp_path, monkeypatch):
        tried = []
        monkeypatch.setattr(memory, "left", lambda device: 1e6)
        monkeypatch.setattr(memory, "peak", lambda device, reset=False: 1e5 * 2 ** len(tried))
        monkeypatch.setattr(
            "trials.lanes.capacity._seconds",
            lambda program, spec, lanes: tried.append(lanes) or 1.0,
        )
        # One lane has taken 1e5 and two 3e5 bytes; four would take six of the eight that are ours.
        assert self.found(tmp_path, at_most=64) == 4
        assert tried == [1, 2, 4, 1, 2, 4]
        tried.clear()
        assert self.found(tmp_path, at_most=64, workers=2) == 2

    @pytest.mark.parametrize(("name", "lanes"), [("protonet", 2), ("conv", 8)])
    def test_are_no_more_than_a_pass_has_memory_for(self, name, lanes, case_named, monkeypatch):
        case = case_named(name)
        making = case.programs()
        few = partial(making.func, Cramped(*making.args, ON_CPU, rows=3), **making.keywords)
        monkeypatch.setattr("trials.lanes.capacity.step_seconds", lambda program: 1.0)
        found = useful_lanes(lambda: few, case.spec(0), at_most=8)
        assert found == lanes  # each doubling would double the rate


def test_what_is_left_and_what_was_taken_are_bytes():
    cpu = torch.device("cpu")
    assert memory.left(cpu) > 1e6
    before = memory.peak(cpu, reset=True)
    held = torch.ones(25_000_000)
    assert memory.peak(cpu) - before > 0.9 * held.nbytes


def test_a_shortage_is_what_torch_calls_one():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert memory.is_shortage(caught.value)
    assert not memory.is_shortage(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
