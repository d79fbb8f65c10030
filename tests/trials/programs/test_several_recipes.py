"""Trials of several recipes in one worker."""

from dataclasses import replace

import pytest

from tests.trials.conformance import assert_same_reports, drive, retried
from trials.contract import Component
from trials.data import sources
from trials.programs.several_recipes import SeveralRecipes, build_for_all


@pytest.fixture(scope="module")
def case(case_named):
    return replace(case_named("functions"), double=True)


def recipes(case):
    """Two learners and two model sizes."""
    wide = replace(case.recipe, model=Component(name="mlp", options={"hidden": (12,)}))
    return [case.recipe, wide, replace(case.recipe, episodes=case.recipe.episodes + 1)]


def several(case, folder, lanes):
    folder.mkdir(parents=True, exist_ok=True)
    return SeveralRecipes(
        lambda recipe: case.program(folder, lanes=lanes, recipe=recipe),
        lanes=lanes,
        first=case.recipe,
    )


def trials(case, n):
    kinds = recipes(case)
    return [case.spec(i, recipe=kinds[i % len(kinds)]) for i in range(n)]


def test_a_trial_is_the_same_as_in_a_program_of_its_own(case, tmp_path):
    specs = trials(case, 7)
    stories = drive(several(case, tmp_path / "several", 4), specs)
    for i, spec in enumerate(specs):
        alone = drive(case.program(tmp_path / f"alone_{i}", recipe=spec.recipe), [spec])
        assert_same_reports(stories[spec.key].reports, alone[spec.key].reports)
        assert stories[spec.key].result.outcome == "complete"


def test_it_has_never_more_trials_than_lanes(case, tmp_path):
    program = several(case, tmp_path, 3)
    assert program.free == 3
    for left, spec in zip((2, 1, 0), trials(case, 3), strict=True):
        program.admit(spec)
        assert program.free == left
    keys = {report.key for _ in range(3) for report in program.advance()}
    assert len(keys) == 3  # each recipe had a turn
    program.release(keys.pop(), "pruned")
    assert program.free == 1


def test_interrupted_trials_of_all_recipes_go_on_elsewhere(case, tmp_path):
    specs = [replace(spec, rungs=(3, 6)) for spec in trials(case, 3)]
    program = several(case, tmp_path / "several", 3)
    for spec in specs:
        program.admit(spec)
    for _ in specs:  # the trials of each recipe reach their first rung
        assert len(program.advance()) == 1
    for each in program._programs.values():
        each.train(2)  # as beside a trial that reaches its rung earlier
    program.interrupt()
    assert program.advance() == []
    again = several(case, tmp_path / "several", 3)
    stories = drive(again, [retried(spec) for spec in specs])
    assert again.lane_steps == 3 * (6 - 5)
    for i, spec in enumerate(specs):
        alone = drive(case.program(tmp_path / f"alone_{i}", recipe=spec.recipe), [spec])
        assert_same_reports(stories[spec.key].reports, alone[spec.key].reports)


def test_a_trial_of_a_new_recipe_does_not_start_after_the_interruption(case, tmp_path):
    first, second, _ = trials(case, 3)
    program = several(case, tmp_path, 2)
    program.admit(first)
    program.interrupt()
    program.admit(second)
    assert program.advance() == []
    assert program.lane_steps == 0


def test_waiting_trials_are_no_idle_lanes(case, tmp_path):
    program = several(case, tmp_path, 4)
    for spec in trials(case, 2):
        program.admit(spec)
    while len([r for r in program.advance() if r.step == 4]) == 0:
        pass
    assert program.lane_steps > 0
    assert program.lane_steps / program.capacity_steps == pytest.approx(2 / 4)


def test_a_failing_trial_fails_alone(case, tmp_path):
    specs = trials(case, 6)
    calm = drive(several(case, tmp_path / "calm", 3), specs)
    specs[1] = replace(specs[1], hyperparameters=case.wild)
    stories = drive(several(case, tmp_path / "wild", 3), specs)
    for spec in specs:
        if spec is specs[1]:
            assert stories[spec.key].result.outcome == "failed"
        else:
            assert_same_reports(stories[spec.key].reports, calm[spec.key].reports)


def test_a_recipe_whose_program_cannot_be_made_fails_alone(case, tmp_path):
    program = several(case, tmp_path, 2)
    make, bad = program._make, recipes(case)[1].fingerprint

    def raising(recipe):
        if recipe.fingerprint == bad:
            raise ValueError("too few examples for this way and shot")
        return make(recipe)

    program._make = raising
    good, failing = trials(case, 2)
    for spec in (good, failing):
        program.admit(spec)
    assert program.free == 1
    assert {report.key for report in program.advance()} == {good.key}
    (result,) = program.ended()
    assert (result.key, result.outcome) == (failing.key, "failed")
    assert "too few examples" in result.error
    assert "Traceback" in result.traceback
    assert program.ended() == []


def test_programs_without_trials_are_dropped(case, tmp_path):
    program = several(case, tmp_path, 1)
    made = []
    make = program._make
    program._make = lambda recipe: made.append(recipe.fingerprint) or make(recipe)
    for n in range(12):
        recipe = replace(case.recipe, query=case.recipe.query + n)
        spec = case.spec(n, recipe=recipe, rungs=(1,))
        program.admit(spec)
        assert [report.key for report in program.advance()] == [spec.key]
        program.release(spec.key, "complete")
    assert len(program._programs) <= 8
    assert len(made) == 11  # the first one was there


def test_recipes_with_the_same_datasets_share_the_inputs(case_named, tmp_path, monkeypatch):
    of_rows, loaded = case_named("protonet"), []
    load = sources.load_dataset

    def counted(name, options, cache):
        loaded.append(name)
        return load(name, options, cache)

    monkeypatch.setattr(sources, "load_dataset", counted)
    program = build_for_all(of_rows.recipe, lanes=2, folder=tmp_path, cache=of_rows.cache)
    n = len(loaded)
    other = replace(of_rows.recipe, episodes=of_rows.recipe.episodes + 1)
    for i, recipe in enumerate([of_rows.recipe, other]):
        program.admit(of_rows.spec(i, recipe=recipe))
    assert len(loaded) == n > 0
    first, second = (made._objective.parts[0] for made in program._programs.values())
    assert first.train.inputs.data_ptr() == second.train.inputs.data_ptr()
