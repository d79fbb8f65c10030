"""What lanes will take of memory, told before any of it is taken."""

import logging
from dataclasses import replace

import pytest
import torch

from fewshot.errors.inputs import InputError
from tests.trials.conformance import CASES, protonet
from trials.contract import Component
from trials.programs.build import OPTIMIZERS, PROGRAMS
from trials.programs.data_summary import summarise_data
from trials.programs.memory_forecast import MemoryNeeds, _most, memory_needs

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", CASES)
def test_every_program_can_be_rehearsed(name, case_named, caplog):
    caplog.set_level(logging.INFO)
    case = case_named(name)
    # Its own: what a rehearsal leaves in it has no numbers.
    recipe, (objective,) = case.recipe, case.programs(new_process=True).args
    found = memory_needs(objective, OPTIMIZERS[recipe.optimizer], CPU)
    assert not [record for record in caplog.records if "not rehearsed" in record.message]
    parameters = sum(value.nbytes for value in objective.init(0).values())
    slots = {"adam": 2, "sgd": 1}[recipe.optimizer]
    assert found.state == (1 + slots) * parameters
    assert found.step >= parameters  # a gradient at least
    assert found.scoring > parameters


def test_what_is_held_at_a_time_is_counted_and_nothing_is_allocated():
    x = torch.zeros(1, 1).expand(1 << 20, 1 << 20)  # four terabytes, had it memory of its own

    def run():
        y = x + 1
        del y
        z = (x[:, :512] * 2).relu()
        return z.view(-1)

    assert _most(run) == 4 * (1 << 40)
    assert _most(lambda: x[: 1 << 10].relu().sum()) == pytest.approx(4 * (1 << 30), rel=1e-6)


def test_lanes_that_are_trained_one_by_one_need_less():
    needs = MemoryNeeds(held=5, state=10, step=7, scoring=3)
    assert needs.of(4, 4) == 5 + 40 + 28
    assert needs.of(4, 1) == 5 + 40 + 7


def test_what_does_not_fit_is_refused_before_it_is_made(tmp_path):
    recipe = protonet(tmp_path).recipe
    wide = Component(name="mlp", options={"hidden": [1 << 20, 1 << 18]})  # a terabyte
    with pytest.raises(InputError) as caught:
        summarise_data(replace(recipe, model=wide), tmp_path)
    (input_error,) = caught.value.details
    assert input_error.path == "datasets.scripts.size"
    assert input_error.rule.startswith("takes about ")
    assert "`size: 84`" in input_error.remedy


def test_as_many_lanes_and_workers_as_there_is_room_for(tmp_path, monkeypatch):
    recipe = protonet(tmp_path).recipe
    objective = PROGRAMS[recipe.program](recipe, tmp_path, CPU)
    needs = memory_needs(objective, OPTIMIZERS[recipe.optimizer], CPU)
    monkeypatch.setattr("trials.lanes.memory.available_memory", lambda: 1.5 * needs.of(4, 4))
    assert summarise_data(recipe, tmp_path, lanes=4)
    with pytest.raises(InputError, match="parameters of 16 lanes"):
        summarise_data(recipe, tmp_path, lanes=16)
    with pytest.raises(InputError, match="parameters of 8 lanes"):
        summarise_data(recipe, tmp_path, lanes=4, workers=2)
