"""Trials that a user adds to a search."""

import json
import os
from pathlib import Path

import pytest

from fewshot.errors.inputs import InputError
from orchestrator.executors.inline import InlineExecutor
from orchestrator.record.enqueued import EnqueuedTrials
from orchestrator.record.studies.study import open_storage
from orchestrator.search.decisions.own_trials import by_name, params_of
from orchestrator.search.loop import run_search
from orchestrator.space.choices import Choice, Condition, WholeRange
from orchestrator.space.search_space import Range, SearchSpace
from tests.orchestrator import toys
from tests.orchestrator.search.test_loop import _quick
from tests.orchestrator.toys import SIZES, Crash, Crashing, Told, Toy

__all__ = ["_quick"]  # a fixture
PLAN = toys.plan()
SPACE = PLAN.space
REFERENCES = 4


def mine(rate: float, weights: dict[str, float] | None = None) -> dict[str, float]:
    return params_of(SPACE, weights, {"lr/outer": rate}, [])


def run(path, waiting, told, executor=None, plan=PLAN):
    with open_storage(str(path)) as storage:
        records = toys.records(storage, plan)
        made = executor or InlineExecutor(lambda: Toy(3))
        run_search(plan, records, made, told, task_sizes=SIZES, enqueued=waiting)
        return records


def added(records) -> list[int]:
    return [t.number for t in records.search.trials() if t.notes.get("origin") == "enqueued"]


def test_what_waits_is_run_first_after_the_references_in_order(tmp_path: Path) -> None:
    waiting, told = EnqueuedTrials(tmp_path / "enqueued"), Told()
    rates = (0.02, 0.03, 0.01)
    for rate in rates:
        waiting.add(mine(rate))
    records = run(tmp_path / "toy.journal", waiting, told)
    numbers = added(records)
    assert numbers == [REFERENCES, REFERENCES + 1, REFERENCES + 2]
    assert tuple(records.search[n].params["lr/outer"] for n in numbers) == rates
    assert len(records.search) == PLAN.trials
    assert not len(waiting)
    assert [key for key, origin in told.origins.items() if origin == "enqueued"] == [
        f"search-{n:04d}" for n in numbers
    ]


def test_a_running_search_picks_it_up_between_turns(tmp_path: Path) -> None:
    waiting = EnqueuedTrials(tmp_path / "enqueued")

    class Adding(InlineExecutor):
        turns = 0

        def turn(self):
            self.turns += 1
            if self.turns == 20:
                waiting.add(mine(0.02))
            return super().turn()

    records = run(tmp_path / "toy.journal", waiting, Told(), Adding(lambda: Toy(1)))
    (number,) = added(records)
    assert REFERENCES < number < PLAN.trials - 1


@pytest.mark.parametrize("late", [False, True])
def test_a_kill_at_any_turn_neither_loses_nor_doubles_it(tmp_path: Path, late: bool) -> None:
    for k in range(30):
        waiting = EnqueuedTrials(tmp_path / f"{k}")
        for rate in (0.02, 0.03):
            waiting.add(mine(rate))
        path, told = tmp_path / f"{k}.journal", Told()
        try:
            records = run(path, waiting, told, Crashing(lambda: Toy(2), k, late=late))
        except Crash:
            records = run(path, waiting, told)
        found = [records.search[n].params["lr/outer"] for n in added(records)]
        assert found == [0.02, 0.03]
        assert not len(waiting)


def test_a_kill_before_the_file_is_removed_does_not_run_it_again(tmp_path: Path) -> None:
    waiting = EnqueuedTrials(tmp_path / "enqueued")
    path = waiting.add(mine(0.02))
    text = path.read_text()
    told = Told()
    with pytest.raises(Crash):
        run(tmp_path / "toy.journal", waiting, told, Crashing(lambda: Toy(4), 9))
    path.write_text(text)  # as if the file had not been removed
    records = run(tmp_path / "toy.journal", waiting, told)
    assert len(added(records)) == 1
    assert not path.exists()


def test_what_comes_too_late_waits_for_more_trials(tmp_path: Path) -> None:
    waiting, told = EnqueuedTrials(tmp_path / "enqueued"), Told()
    run(tmp_path / "toy.journal", waiting, told)
    waiting.add(mine(0.02))
    assert added(run(tmp_path / "toy.journal", waiting, told)) == []
    assert len(waiting) == 1
    more = toys.plan(trials=14)
    assert added(run(tmp_path / "toy.journal", waiting, told, plan=more)) == [12]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"lr/outer": 5}', '{"lr/outer": "x"}', "\x00", '"text"', "12"]
)
def test_a_file_that_is_no_configuration_is_set_aside(tmp_path: Path, text: str) -> None:
    folder = tmp_path / "enqueued"
    waiting = EnqueuedTrials(folder)
    waiting.add(mine(0.02))
    (folder / "1-bad.json").write_text(text)
    (folder / "2-far.json").write_text(json.dumps(mine(0.02) | {"lr/outer": 9.0}))
    (folder / ".3-part.json.part").write_text("{")
    records = run(tmp_path / "toy.journal", waiting, Told())
    assert len(added(records)) == 1
    assert {name for name in os.listdir(folder) if name[0] != "."} == {
        "1-bad.rejected",
        "2-far.rejected",
    }


def test_what_is_not_given_is_that_of_the_best_trial(tmp_path: Path) -> None:
    assert by_name(SPACE, params_of(SPACE, {"clean": 1.0}, {}, [])) == pytest.approx(
        {"lr/outer": 10**-2.5, "lambda/clean": 1.0, "lambda/mixed": 0.0, "lambda/noise": 0.0}
    )
    trials = run(tmp_path / "toy.journal", None, Told()).search.trials()
    best = max((t for t in trials if t.state == "complete"), key=lambda t: t.score)
    assert params_of(SPACE, None, {}, trials) == best.params
    found = by_name(SPACE, params_of(SPACE, {"clean": 0.5, "mixed": 0.5}, {}, trials))
    assert found["lr/outer"] == best.params["lr/outer"]
    assert found["lambda/clean"] == pytest.approx(0.5)


def test_every_error_is_found_at_once() -> None:
    with pytest.raises(InputError) as error:
        params_of(
            SPACE,
            {"clen": 0.5, "mixed": "half", "noise": -1},
            {"lr/outer": 3.0, "lr/otter": 1, "distill/temperature": 2},
            [],
        )
    said = {detail.path: str(detail) for detail in error.value.details}
    assert said.keys() == {
        "weights.clen",
        "weights.mixed",
        "weights.noise",
        "lr/outer",
        "lr/otter",
        "distill/temperature",
    }
    assert "Did you mean `clean`" in said["weights.clen"]
    assert "must be a number from 0.0001 to 0.1. Found 3.0" in said["lr/outer"]


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"clean": 0.5}, "must sum to 1. Found 0.5"),
        ({"clean": 0.99, "mixed": 0.01}, "can't be a trial"),
        ({"clean": float("nan"), "mixed": 1.0}, "must be a number of at least 0"),
    ],
)
def test_weights_that_are_none_are_refused(weights, said) -> None:
    with pytest.raises(InputError, match=said):
        params_of(SPACE, weights, {}, [])


def test_weights_that_are_not_searched_are_refused() -> None:
    from dataclasses import replace

    fixed = replace(SPACE, weights={"clean": 1.0}, fixed={"lr/adapt": 0.1})
    with pytest.raises(InputError) as error:
        params_of(fixed, {"clean": 1.0}, {"lr/adapt": 0.2}, [])
    assert [detail.path for detail in error.value.details] == ["lr/adapt", "weights"]
    assert "it is 0.1 in all trials" in str(error.value)


def test_options_have_the_types_of_the_search_space() -> None:
    space = SearchSpace(
        {"lr/inner": Range(1e-2, 1.0, log=True)},
        {},
        SPACE.weights,
        {"learner": Choice(("protonet", "maml")), "width": WholeRange(8, 64, 8)},
        {"lr/inner": (Condition("learner", ("maml",)),)},
    )
    params = params_of(space, None, {"learner": "maml", "width": 16.0, "lr/inner": 0.1}, [])
    assert (params["learner"], params["lr/inner"]) == ("maml", 0.1)
    assert (params["width"], type(params["width"])) == (16, int)
    with pytest.raises(InputError) as error:
        params_of(space, None, {"learner": "protonet", "lr/inner": 0.1}, [])
    assert [d.path for d in error.value.details] == ["lr/inner"]
    with pytest.raises(InputError, match=r"a whole number from 8 to 64 in steps of 8.*Found 17"):
        params_of(space, None, {"width": 17}, [])
