import json
import math
from dataclasses import replace
from typing import Any

import optuna
import pytest

from orchestrator.executors.inline import InlineExecutor
from orchestrator.record.search_records import SearchRecords
from orchestrator.record.studies.study import StudyRecord
from orchestrator.results.leaderboard import summarise
from orchestrator.results.sentences import sentence
from orchestrator.search.failures import SearchFailed
from orchestrator.search.loop import Stopped, run_search, score_untrained
from orchestrator.space.search_space import Range, SearchSpace
from tests.orchestrator import toys
from tests.orchestrator.toys import SIZES, Told, Toy, skill
from trials.contract import Component, TrialSpec

KEYS = {
    "name",
    "state",
    "trials",
    "occupancy",
    "best",
    "finalists",
    "baseline",
    "verdict",
    "difference",
    "test",
}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.sampling.sampler.Sampler.suggest", toys.quick_suggest)


UNTRAINED = replace(toys.RECIPE, model=Component(name="untrained"))


def searched(
    turns: int | None = None,
    *,
    score: Any = skill,
    untrained: float | None = None,
    **changes: Any,
) -> SearchRecords:
    """The records of a search that is complete, or was stopped after some turns.

    untrained: the skill of the untrained model, if there is one.
    """
    plan = toys.plan(**changes)
    records = toys.records(optuna.storages.InMemoryStorage(), plan)

    def score_of_untrained(stage: Any) -> None:
        if untrained is not None:
            executor = InlineExecutor(lambda: Toy(1, lambda spec, step: untrained))
            record = getattr(records, stage)
            score_untrained(plan, UNTRAINED, stage, record, executor, Told())

    score_of_untrained("final")
    left = iter(range(turns or 10**9))
    try:
        run_search(
            plan,
            records,
            InlineExecutor(lambda: Toy(4, score)),
            Told(),
            task_sizes=SIZES,
            should_stop=lambda: next(left, None) is None,
        )
    except (SearchFailed, Stopped):
        return records
    assert turns is None, "a search that is to be stopped is not over before"
    score_of_untrained("test")
    records.search.note("state", "complete")
    return records


def strict(value: object) -> dict[str, Any]:
    """By way of JSON as others read it, which knows no NaN."""
    return json.loads(json.dumps(value, allow_nan=False))


def test_the_summary_is_json_with_the_keys_that_machines_rely_on() -> None:
    records = searched()
    found = strict(summarise("toy", records).to_dict())
    assert found.keys() >= KEYS
    assert (found["name"], found["state"]) == ("toy", "complete")
    assert found["trials"].keys() == {"complete", "stopped", "failed", "running"}
    assert sum(found["trials"].values()) == 12
    assert 0 < found["occupancy"] <= 1
    assert found["best"].keys() >= {"number", "hyperparameters", "task_weights"}
    assert found["best"]["task_weights"].keys() == set(toys.TASKS)
    assert len(found["finalists"]) == 4  # one of them is the reference with the rates of the best
    assert found["baseline"]["reference"] == "uniform"
    assert found["difference"].keys() == {"mean", "low", "high", "note"}
    assert found["test"].keys() == {"candidate", "uniform"}
    assert found["verdict"] in {"better", "no better", "undecided"}


def test_finalists_are_ranked_by_their_fresh_scores() -> None:
    summary = summarise("toy", searched(finalists=4, seeds=3))
    means = [f.score.mean for f in summary.finalists]
    assert means == sorted(means, reverse=True)
    assert summary.best == summary.finalists[0]
    assert all(f.score.low <= f.score.mean <= f.score.high for f in summary.finalists)


def test_the_difference_is_that_of_the_two_that_were_tested() -> None:
    records = searched()
    summary = summarise("toy", records)
    means = {}
    for t in records.test.trials():
        rows = means.setdefault(t.notes["role"], [])
        rows += [task["accuracy"] for task in t.notes["tasks"].values()]
    ours, theirs = (sum(means[key]) / 4 for key in ("searched", "uniform"))
    assert summary.test["candidate"].mean == pytest.approx(ours)
    assert summary.test["uniform"].mean == pytest.approx(theirs)
    assert summary.difference.mean == pytest.approx(ours - theirs)


def test_where_nothing_is_classified_it_is_skill_that_is_compared(monkeypatch) -> None:
    finish = StudyRecord.finish

    def of_numbers(self, number, outcome, score, notes) -> None:
        for task in notes.get("tasks", {}).values():
            task["mse"] = task.pop("accuracy")
        finish(self, number, outcome, score, notes)

    monkeypatch.setattr(StudyRecord, "finish", of_numbers)
    records = searched()
    summary = summarise("toy", records)
    rows = [
        task["skill"][0]
        for t in records.test.trials()
        if t.notes["role"] == "searched"
        for task in t.notes["tasks"].values()
    ]
    assert summary.to_dict()["measure"] == "skill"
    assert summary.test["candidate"].mean == pytest.approx(sum(rows) / len(rows))
    assert "of the variance explained on the test tasks" in sentence(summary)


def test_a_clear_gain_is_called_better_and_none_is_not() -> None:
    def clean_counts(spec: TrialSpec, step: int) -> float:
        return 0.1 + 0.5 * spec.task_weights["clean"] + 0.001 * (spec.seed % 7)

    def nothing_counts(spec: TrialSpec, step: int) -> float:
        return 0.3 + 0.0001 * (spec.seed % 7)

    better = summarise("toy", searched(score=clean_counts))
    assert better.verdict == "better"
    assert sentence(better).startswith("The best candidate is better than uniform task weights")
    same = summarise("toy", searched(score=nothing_counts))
    assert same.verdict == "no better"
    assert "is no better than" in sentence(same)


def test_a_baseline_that_has_no_teacher_where_others_have_one_is_called_so() -> None:
    summary = summarise("toy", searched())
    rates = dict(summary.uniform.hyperparameters)
    for weight, said in ((0.0, True), (0.5, False)):
        uniform = replace(summary.uniform, hyperparameters=rates | {"distill/soft_weight": weight})
        found = sentence(replace(summary, uniform=uniform, reference=uniform))
        assert ("uniform task weights without a teacher, with tuned rates" in found) == said


@pytest.mark.parametrize("turns", range(1, 16))
def test_a_search_that_has_not_ended_has_a_summary(turns: int) -> None:
    summary = summarise("toy", searched(turns))
    found = strict(summary.to_dict())
    assert found.keys() >= KEYS
    assert found["state"] == "running"
    assert found["best"] is found["verdict"] is found["difference"] is None
    assert sentence(summary) == "The search has not ended yet."
    assert sum(found["trials"].values()) <= 12
    # Those that have not been retrained yet are not listed with the parameters of another trial.
    references = [f for f in summary.finalists if f.role == "uniform"]
    assert all(len(set(f.task_weights.values())) == 1 for f in references)


def test_a_search_that_has_not_begun_has_a_summary() -> None:
    records = toys.records(optuna.storages.InMemoryStorage(), toys.plan())
    found = strict(summarise("toy", records).to_dict())
    assert found["occupancy"] is None
    assert sum(found["trials"].values()) == 0


def diverging(stage: str, numbers: set[int]) -> Any:
    def score(spec: TrialSpec, step: int) -> float:
        return math.nan if spec.stage == stage and spec.number in numbers else skill(spec, step)

    return score


def test_where_all_diverged_the_summary_says_so() -> None:
    records = searched(score=diverging("search", {*range(12)}), untrained=0.3)
    summary = summarise("toy", records)
    assert strict(summary.to_dict())["best"] is None
    assert summary.trials["failed"] == 4, "the search gives up"
    assert sum(summary.failures.values()) == 4
    assert all(summary.failures), "each has a reason"
    assert sentence(summary) == "The search has not ended yet."


def test_a_baseline_that_diverged_under_a_new_seed_is_no_baseline() -> None:
    # The reference's finals are the first two of six, and the last two of eight.
    summary = summarise("toy", searched(score=diverging("final", {1, 6})))
    found = strict(summary.to_dict())
    assert found["baseline"] is found["difference"] is found["verdict"] is None
    assert found["test"].keys() == {"candidate"}
    assert found["best"]["reference"] is None
    assert sentence(summary).endswith("There is no reference to compare it with.")


def test_a_test_that_failed_leaves_the_other_seeds_paired() -> None:
    whole = searched(seeds=3)
    records = searched(seeds=3, score=diverging("test", {1}))
    tests = [t.state for t in records.test.trials()]
    assert tests == ["complete", "failed"] + ["complete"] * 4
    rows = {
        (t.notes["role"], t.notes["seed_index"]): [
            task["accuracy"] for task in t.notes["tasks"].values()
        ]
        for t in whole.test.trials()
    }
    pairs = [
        a - b for j in (0, 2) for a, b in zip(rows["searched", j], rows["uniform", j], strict=True)
    ]
    summary = summarise("toy", records)
    assert summary.difference.mean == pytest.approx(sum(pairs) / len(pairs))


def test_without_a_reference_the_best_stands_alone() -> None:
    rate = {"lr/outer": Range(1e-4, 1e-1, log=True)}
    space = SearchSpace(rate, {}, dict.fromkeys(toys.TASKS, 1 / 3))
    summary = summarise("toy", searched(space=space))
    assert strict(summary.to_dict())["baseline"] is None
    assert sentence(summary).startswith(f"Trial {summary.best.number} is the best")


class TestUntrained:
    """The trained models of the toy reach a skill of .69, uniform weights at most .667."""

    def test_is_a_finalist_and_a_reference(self) -> None:
        summary = summarise("toy", searched(untrained=0.3, seeds=3))
        found = strict(summary.to_dict())
        assert found["references"]["untrained"]["score"]["mean"] == pytest.approx(0.3)
        assert found["references"]["untrained"]["reference"] == "untrained"
        assert found["references"]["untrained"]["number"] is None
        assert found["references"]["uniform"] == found["baseline"]
        assert [f["number"] for f in found["finalists"]][-1] is None
        assert found["test"]["untrained"]["mean"] == pytest.approx(0.2 + 0.8 * 0.3)

    def test_that_is_worse_than_uniform_weights_leaves_the_verdict_to_them(self) -> None:
        with_one, without = (summarise("toy", searched(untrained=x, seeds=3)) for x in (0.3, None))
        assert with_one.reference == with_one.uniform
        assert (with_one.verdict, with_one.difference) == (without.verdict, without.difference)
        assert with_one.best == without.best
        assert sentence(with_one) == sentence(without) + " The untrained model: 44.0 %."

    def test_that_is_the_better_reference_is_what_the_verdict_is_about(self) -> None:
        records = searched(untrained=0.675, seeds=3)
        summary = summarise("toy", records)
        assert summary.uniform.score.mean < 0.675 < summary.candidate.score.mean
        assert summary.best == summary.candidate
        assert summary.reference == summary.untrained
        ours = summary.test["candidate"].mean
        assert summary.difference.mean == pytest.approx(ours - summary.test["untrained"].mean)
        said = sentence(summary)
        assert said.startswith("The best candidate is better than the untrained model: ")
        assert "Uniform task weights with tuned rates: " in said

    def test_that_nothing_beats_is_the_answer(self) -> None:
        summary = summarise("toy", searched(untrained=0.9, seeds=3))
        assert summary.best == summary.untrained
        assert summary.verdict == "no better"
        assert summary.difference.high < 0
        said = sentence(summary)
        assert said.startswith(
            "On the validation tasks, no trained model is clearly better than the untrained "
            "model. The untrained model is exported; it has 92.0 % on the test tasks. The best "
            "candidate has "
        )
        uniform = 100 * summary.test["uniform"].mean
        assert said.endswith(f" Uniform task weights with tuned rates: {uniform:.1f} %.")

    def test_is_preferred_to_a_gain_within_its_error(self) -> None:
        def noisy(spec: TrialSpec, step: int) -> float:
            return 0.5 + 0.02 * math.sin(spec.seed)

        mean = summarise("toy", searched(score=noisy, seeds=3)).candidate.score.mean
        for below, kept in ((0.001, True), (0.1, False)):
            summary = summarise("toy", searched(score=noisy, untrained=mean - below, seeds=3))
            assert (summary.best.role == "untrained") == kept
            assert summary.verdict != "better" or not kept


def test_uniform_weights_are_exported_unless_the_candidate_is_clearly_better() -> None:
    def score(gain: float) -> Any:
        def of(spec: TrialSpec, step: int) -> float:
            clean = spec.task_weights["clean"]
            return 0.4 + gain * clean + 0.02 * math.sin(spec.seed + 99 * clean)

        return of

    clear, within = (summarise("toy", searched(score=score(g), seeds=3)) for g in (0.3, 0.005))
    assert clear.best.role == "searched"
    assert "exported" not in sentence(clear)
    assert within.best.role == "uniform"
    assert within.reference is within.best
    assert sentence(within).endswith("uniform task weights with tuned rates are exported.")


def test_the_measure_is_what_all_held_out_tasks_have(monkeypatch) -> None:
    """Validation tasks of classes only, test tasks of classes and of numbers."""
    finish = StudyRecord.finish

    def of_both(self, number, outcome, score, notes) -> None:
        if self is records_of["test"]:
            task = notes["tasks"]["braille"]
            task["mse"] = task.pop("accuracy")
        finish(self, number, outcome, score, notes)

    records_of: dict[str, StudyRecord] = {}
    init = StudyRecord.__init__

    def named(self, storage, name, box) -> None:
        init(self, storage, name, box)
        records_of[name.rpartition("/")[2]] = self

    monkeypatch.setattr(StudyRecord, "__init__", named)
    monkeypatch.setattr(StudyRecord, "finish", of_both)
    summary = summarise("toy", searched(seeds=3))
    assert summary.measure == "skill"
    assert summary.test.keys() == {"candidate", "uniform"}
    assert "of the gap between chance and perfect on the test tasks" in sentence(summary)


@pytest.mark.parametrize("untrained", [None, 0.9])
def test_where_only_references_completed_the_summary_says_that_there_is_no_verdict(
    untrained: float | None,
) -> None:
    plan = toys.plan()
    references = range(plan.reference_trials)
    others = {*range(plan.trials)} - {*references}
    summary = summarise("toy", searched(score=diverging("search", others), untrained=untrained))
    assert summary.state == "complete"
    assert summary.candidate is summary.verdict is None
    text = sentence(summary)
    assert text.startswith("There is no verdict: no trial other than the references completed.")
    if untrained is None:
        assert "Uniform task weights with tuned rates are exported: " in text
    else:
        assert "The untrained model is exported" in text
