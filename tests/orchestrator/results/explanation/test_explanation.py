"""Verdicts on searches whose true effects are known."""

import json
import math
from dataclasses import replace

import numpy as np
import optuna
import pytest

from orchestrator.results.explanation.checks import enough_validation_tasks
from orchestrator.results.explanation.effects import (
    effect_of,
    effects,
    mixtures,
    with_share,
)
from orchestrator.results.explanation.explanation import Explanation, explained
from orchestrator.results.explanation.files import tags_of, write_explanation
from orchestrator.results.explanation.score_model import ScoreModel
from orchestrator.results.leaderboard import summarise
from orchestrator.sampling.sampler import coordinates_of
from orchestrator.search.finals.intervals import Interval
from orchestrator.space.search_space import SearchSpace
from tests.orchestrator import toys
from tests.orchestrator.results.explanation import known
from tests.orchestrator.results.explanation.known import RATES, additive, explanation, plan, search

TASKS = ("good", "fair", "useless", "bad")
EFFECTS = dict(zip(TASKS, (0.25, 0.05, 0.0, -0.2), strict=True))


def verdicts(found: Explanation) -> dict[str, str]:
    return {e.task: e.verdict for e in found.effects}


@pytest.fixture(scope="module")
def found() -> Explanation:
    made = plan(TASKS)
    return explanation(made, search(made, additive(EFFECTS)))


def test_large_effects_are_told_with_their_sign(found: Explanation) -> None:
    named = verdicts(found)
    assert named["good"] == "helps"
    assert named["bad"] == "harms"
    assert named["useless"] != "helps"
    assert found.named("helps")[0] == "good"


def test_the_good_range_of_a_harmful_task_ends_near_zero(found: Explanation) -> None:
    ranges = {e.task: e.good for e in found.effects}
    assert ranges["bad"][1] <= 0.1
    assert ranges["good"][0] > 0.05
    assert all(0 <= low <= high <= 1 for low, high in ranges.values())


def test_every_validation_task_has_its_own_effects() -> None:
    made = plan(TASKS)
    held_out = {"one": additive({"good": 0.3}), "other": additive({"bad": 0.3})}
    found = explanation(made, search(made, additive({}), held_out=held_out))
    effects = {e.task: e.on_validation for e in found.effects}
    assert effects["good"]["one"].low > 0
    assert effects["bad"]["other"].low > 0
    assert effects["bad"]["one"].mean < effects["bad"]["other"].mean


def test_the_order_of_the_tasks_has_no_effect(found: Explanation) -> None:
    made = plan(TASKS)
    records = search(made, additive(EFFECTS))
    order = (2, 0, 3, 1)
    other = known.permuted(made, order)
    again = toys.records(optuna.storages.InMemoryStorage(), other)
    for trial in records.search.trials():
        rates = {"lr/outer": trial.params["lr/outer"]}
        weights = made.space.decode(trial.params)[1]
        again.search.ask(rates | other.space.weights.encode(weights))
        for step, score in trial.reports.items():
            again.search.report(trial.number, step, score)
        again.search.finish(trial.number, trial.state, trial.score, trial.notes)
    permuted = {e.task: e for e in explanation(other, again).effects}
    for e in found.effects:
        same = permuted[e.task]
        assert same.effect.mean == pytest.approx(e.effect.mean, abs=2e-3)
        assert same.effect.low == pytest.approx(e.effect.low, abs=2e-3)
        assert same.good == pytest.approx(e.good, abs=0.02)


def test_few_trials_tell_nothing() -> None:
    made = plan(TASKS)
    found = explanation(made, search(made, additive(EFFECTS), n=9))
    assert set(verdicts(found).values()) == {"cannot be told"}
    assert "too few" in found.effects[0].effect.note
    assert found.to_dict()["effects"][0]["effect"]["mean"] is None
    assert found.effects[0].good is None
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_search_without_trials_is_explained() -> None:
    made = plan(TASKS)
    records = toys.records(optuna.storages.InMemoryStorage(), made)
    found = explanation(made, records)
    assert [e.weight for e in found.effects] == [None] * 4
    assert found.importances == {}
    assert {check.passed for check in found.checks} == {None}


def test_weights_that_are_not_searched_have_no_effects() -> None:
    weights = dict.fromkeys(TASKS, 0.25)
    made = plan(TASKS, space=SearchSpace(RATES, {}, weights))
    records = search(made, additive(EFFECTS))
    found = explanation(made, records)
    assert found.effects == []
    assert list(found.importances) == ["lr/outer"]
    assert found.table() == {"columns": found.table()["columns"], "data": []}


def test_a_search_without_scalars_is_explained() -> None:
    made = plan(TASKS)
    made = replace(made, space=replace(made.space, ranges={}, fixed={"lr/outer": 0.003}))
    assert verdicts(explanation(made, search(made, additive(EFFECTS))))["bad"] == "harms"


def test_tasks_of_a_group_have_one_effect() -> None:
    groups = ("group g", "group g", "task useless", "task bad")
    made = plan(TASKS, groups)
    found = explanation(made, search(made, additive(EFFECTS)))
    assert [e.task for e in found.effects] == ["group g", "useless", "bad"]
    assert found.effects[0].tasks == ("good", "fair")
    assert found.effects[0].verdict == "helps"
    assert sum(e.weight for e in found.effects) == pytest.approx(1)


def test_failed_trials_and_missing_scores_are_left_out(found: Explanation) -> None:
    made = plan(TASKS)
    records = search(made, additive(EFFECTS))
    params = records.search[5].params
    for reports in ({}, {3: 0.01}, {3: math.nan}):
        number = records.search.ask(params).number
        for step, score in reports.items():
            records.search.report(number, step, score)
        records.search.finish(number, "failed", math.nan, {"reason": "diverged"})
    number = records.search.ask(params).number  # running, and its only score is not a number
    records.search.report(number, 3, math.nan)
    again = explanation(made, records)
    assert [e.effect.mean for e in again.effects] == [e.effect.mean for e in found.effects]


def test_scores_without_a_lower_bound_are_raised_to_a_floor() -> None:
    made = plan(TASKS)
    records = search(made, additive(EFFECTS))
    number = records.search.ask(records.search[5].params).number
    records.search.report(number, 3, -1e9)
    records.search.finish(number, "pruned", -1e9, {})
    found = explanation(made, records)
    assert all(abs(e.effect.mean) < 1 for e in found.effects)


def test_studies_without_skills_at_rungs_use_those_of_complete_trials() -> None:
    made = plan(TASKS)
    old = explanation(made, search(made, additive(EFFECTS), n=40, recorded=False))
    assert verdicts(old)["good"] == "helps"
    assert list(old.effects[0].on_validation) == ["greek", "korean"]
    records = search(made, additive(EFFECTS), n=40, recorded=False)
    for trial in records.search.trials():  # and older ones have none at all
        trial.notes.pop("tasks", None)
    assert explanation(made, records).effects[0].on_validation == {}


def test_equal_scores_tell_nothing() -> None:
    made = plan(TASKS)
    space = replace(made.space, ranges={}, fixed={"lr/outer": 0.003})
    made = replace(made, space=space)
    found = explanation(made, search(made, lambda w: 0.2, noise=0.0))
    assert set(verdicts(found).values()) == {"cannot be told"}
    assert found.importances == {}


@pytest.mark.parametrize(("differ", "passed"), [(0.2, True), (0.0, False)])
def test_one_validation_task_with_many_problems_is_a_sample_of_problems(differ, passed) -> None:
    rng = np.random.default_rng(0)
    goals = rng.normal(size=60)
    made = plan(["a", "b"])
    records = search(made, additive({}), held_out={"goals": additive({})})
    rows = [
        replace(t, notes=t.notes | {"tasks": {"goals": {"skill": [0.5, 0.0, 60]}}})
        for t in records.search.trials()
        if t.state == "complete"
    ]
    for i, trial in enumerate(rows):
        own = goals + differ * i + 0.3 * rng.normal(size=60)
        trial.notes["tasks"]["goals"]["by_problem"] = own.tolist()
    check = enough_validation_tasks(rows)
    assert check.passed is passed
    assert "over 60 problems" in check.text
    for trial in rows:
        del trial.notes["tasks"]["goals"]["by_problem"]
    assert "1 validation task is too few" in enough_validation_tasks(rows).text


def test_tags_fit_into_mlflow(found: Explanation) -> None:
    assert tags_of(found)["fewtune.harms"] == "bad"
    bad = next(e for e in found.effects if e.task == "bad")
    many = replace(found, effects=[replace(bad, task="x" * 60) for _ in range(50)])
    tag = tags_of(many)["fewtune.harms"]
    assert len(tag) < 520
    assert tag.endswith("and 42 more")


def test_an_explanation_that_fails_is_logged(tmp_path, caplog) -> None:
    made = plan(TASKS)
    records = search(made, additive(EFFECTS), n=12)
    broken = explained(summarise("toy", records), lambda: 1 / 0, records)
    assert write_explanation(broken, tmp_path) == ((), {})
    assert "no_explanation search=toy" in caplog.text
    assert list(tmp_path.iterdir()) == []


def true_effects(made, records, score) -> list[float]:
    simplex = made.space.weights
    trials = records.search.trials()
    shares = coordinates_of(made.space).points([t.params for t in trials]).shares
    every = mixtures(shares, np.zeros(0)).shares

    def mean(rows: np.ndarray) -> float:
        return float(np.mean([score(dict(zip(simplex.tasks, w, strict=True))) for w in rows]))

    absent = [with_share(every, i, 0.0) for i in range(len(simplex.tasks))]
    return [mean(with_share(rows, i, 0.1)) - mean(rows) for i, rows in enumerate(absent)]


def simulated(score, tasks, seed: int, noise: float) -> tuple[list[Interval], list[float]]:
    """The effects, and the true ones, of one search."""
    made = plan(tasks)
    records = search(made, score, seed=seed, noise=noise)
    trials = records.search.trials()
    place = coordinates_of(made.space)
    points = place.points([t.params for t in trials])
    scores = np.array([[t.reports.get(r, math.nan) for r in known.GAINED] for t in trials])
    model = ScoreModel(np.sqrt(points.shares), points.scalars, scores)
    found = effects(model, mixtures(points.shares, np.array([0.5])))
    return found, true_effects(made, records, score)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_intervals_contain_the_true_effects() -> None:
    rng, found, true = np.random.default_rng(0), [], []
    for seed in range(24):
        score = additive(dict(zip("abcde", 0.1 * rng.standard_normal(5), strict=True)))
        intervals, values = simulated(score, "abcde", seed, noise=0.015)
        found += intervals
        true += values
    inside = [i.low <= x <= i.high for i, x in zip(found, true, strict=True)]
    assert 0.85 <= np.mean(inside) <= 1.0
    told = [(effect_of(i), x) for i, x in zip(found, true, strict=True)]
    assert np.mean([verdict != "cannot be told" for verdict, _ in told]) > 0.3
    wrong = [v for v, x in told if (v == "helps" and x < 0) or (v == "harms" and x > 0)]
    assert len(wrong) <= 0.05 * len(told)


@pytest.mark.slow
def test_equal_tasks_are_told_apart_by_chance_only() -> None:
    found = [i for seed in range(8) for i in simulated(lambda w: 0.5, "abcdef", seed, 0.02)[0]]
    assert [effect_of(i) for i in found].count("cannot be told") >= 0.85 * len(found)


def test_a_task_that_good_mixtures_leave_out_is_not_needed():
    undecided = Interval(0.0, -0.1, 0.1)
    assert effect_of(undecided, (0.0, 0.05), uniform=0.125) == "not needed"
    assert effect_of(undecided, (0.0, 0.1), uniform=0.125) == "cannot be told"
    assert effect_of(undecided, (0.01, 0.05), uniform=0.125) == "cannot be told"
    assert effect_of(Interval(0.1, 0.05, 0.2), (0.0, 0.0), uniform=0.125) == "helps"
    assert effect_of(Interval(-0.1, -0.2, -0.05), (0.0, 0.0), uniform=0.125) == "harms"
