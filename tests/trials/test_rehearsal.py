"""What lanes will take of memory, told before any of it is taken."""

import logging
from dataclasses import replace

import pytest
import torch

from fewshot.faults import InputError
from tests.trials.conformance import CASES, protonet
from trials.build import OPTIMIZERS, PROGRAMS, examine
from trials.contract import Component
from trials.rehearsal import Needs, _most, needs_of

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", CASES)
def test_every_program_can_be_rehearsed(name, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    recipe = CASES[name](tmp_path).recipe
    objective = PROGRAMS[recipe.program](recipe, tmp_path, CPU)
    found = needs_of(objective, OPTIMIZERS[recipe.optimizer], CPU)
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
    needs = Needs(held=5, state=10, step=7, scoring=3)
    assert needs.of(4, 4) == 5 + 40 + 28
    assert needs.of(4, 1) == 5 + 40 + 7


def test_what_does_not_fit_is_refused_before_it_is_made(tmp_path):
    recipe = protonet(tmp_path).recipe
    wide = Component(name="mlp", options={"hidden": [1 << 20, 1 << 18]})  # a terabyte
    with pytest.raises(InputError) as caught:
        examine(replace(recipe, model=wide), tmp_path)
    (fault,) = caught.value.faults
    assert fault.path == "datasets.scripts.size"
    assert fault.rule.startswith("takes about ")
    assert "`size: 84`" in fault.remedy


def test_as_many_lanes_and_workers_as_there_is_room_for(tmp_path, monkeypatch):
    recipe = protonet(tmp_path).recipe
    objective = PROGRAMS[recipe.program](recipe, tmp_path, CPU)
    needs = needs_of(objective, OPTIMIZERS[recipe.optimizer], CPU)
    monkeypatch.setattr("trials.memory.available_memory", lambda: 1.5 * needs.of(4, 4))
    assert examine(recipe, tmp_path, lanes=4)
    with pytest.raises(InputError, match="parameters of 16 lanes"):
        examine(recipe, tmp_path, lanes=16)
    with pytest.raises(InputError, match="parameters of 8 lanes"):
        examine(recipe, tmp_path, lanes=4, workers=2)
