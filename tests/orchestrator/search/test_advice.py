import math
from dataclasses import replace
from typing import Any

import optuna
import pytest

from orchestrator.config.loading import parse
from orchestrator.config.plan import Plan
from orchestrator.record.studies.study import StudiedTrial
from orchestrator.search.advice import (
    Advice,
    Adviser,
    advice_on_config,
    advice_on_trials,
    on_edges,
)
from tests.orchestrator import toys
from trials.contract import Component


def config(**changes: Any) -> Any:
    texts = {"source": "text", "path": "texts.csv", "features": "encoder", "encoder": "mine"}

    def tasks(*names: str) -> list[dict[str, Any]]:
        return [{"each": {"domain": list(names)}, "dataset": "texts", "label": "label"}]

    whole = {
        "name": "mine",
        "datasets": {"texts": texts},
        "tasks": {"train": tasks("a", "b"), "validation": tasks("c", "d", "e"), "test": tasks("f")},
        "model": {"name": "mlp", "hidden": [], "n_out": 32},
        "learner": {"name": "protonet"},
        "steps": 10,
        "space": {"lr/outer": 0.01},
    }
    return parse(whole | changes)


def paths(found: list[Advice]) -> list[str]:
    return [advice.path for advice in found]


def test_a_layer_narrower_than_pretrained_features_is_told_of() -> None:
    (advice,) = advice_on_config(config(), (384,))
    assert advice.path == "model.n_out"
    assert "has only 32 outputs for the 384 features" in advice.warning
    assert "residual" in advice.remedy
    assert advice_on_config(config(), (32,)) == []
    assert advice_on_config(config(model={"name": "residual"}), (384,)) == []


def test_one_that_scores_classes_has_no_width_to_choose() -> None:
    maml = {"learner": {"name": "maml"}, "model": {"name": "mlp"}}
    space = {"lr/outer": 0.01, "lr/inner": 0.01, "lr/adapt": 0.01}
    assert advice_on_config(config(**maml, space=space), (384,)) == []


def test_too_few_tasks_are_told_of() -> None:
    task = {"name": "a", "dataset": "texts", "label": "label"}
    few = config(
        tasks={
            "train": [task],
            "validation": [task | {"name": "b"}],
            "test": [task | {"name": "c"}],
        },
        model={"name": "residual"},
    )
    found = advice_on_config(few, (384,))
    assert paths(found) == ["tasks.train", "tasks.validation"]
    assert "no weights to search" in found[0].warning
    assert "1 validation task is too few" in found[1].warning


def test_one_training_task_with_groups_is_not_told_of() -> None:
    task = {"dataset": "texts", "label": "label", "within": "school"}
    tasks = {split: [task | {"name": split}] for split in ("train", "validation", "test")}
    assert advice_on_config(config(tasks=tasks, model={"name": "residual"}), (384,)) == []


def test_a_family_of_functions_is_enough_to_rank_by() -> None:
    found = config(
        datasets={},
        tasks={
            "train": [{"function": "line"}, {"function": "square"}],
            "validation": [{"function": "sinusoid"}],
            "test": [{"function": "sinusoid"}],
        },
        model={"name": "mlp"},
        learner={"name": "ridge"},
    )
    assert advice_on_config(found, (1,)) == []


def trials(scores: list[float], rate: float = 0.001) -> list[StudiedTrial]:
    box = dict.fromkeys(toys.plan().space.box(), 0.1)
    return [
        StudiedTrial(i, "complete", box | {"lr/outer": rate}, {10: score}, {})
        for i, score in enumerate(scores)
    ]


def with_model(name: str) -> Plan:
    return toys.plan(recipe=replace(toys.RECIPE, model=Component(name=name)))


@pytest.mark.parametrize("name", ["residual", "lora", "transformer"])
def test_a_model_that_starts_as_the_untrained_one_is_not_replaced_by_another(name: str) -> None:
    (advice,) = advice_on_trials(with_model(name), trials([0.5] * 4), 0.6)
    assert "residual" not in advice.remedy
    assert "lower rates" in advice.remedy


def test_a_third_of_the_trials_below_the_untrained_model_is_told_of() -> None:
    plan = with_model("mlp")  # of 12 trials
    assert advice_on_trials(plan, trials([0.5] * 3), 0.6) == []
    (advice,) = advice_on_trials(plan, trials([0.5, 0.4, 0.3, math.nan]), 0.6)
    assert advice.path == "model"
    assert "after 4 of 12 trials the best score is 0.500, below the untrained model's 0.600" in (
        advice.warning
    )
    assert "residual" in advice.remedy
    assert advice_on_trials(plan, trials([0.7, 0.4, 0.3, 0.2]), 0.6) == []
    assert advice_on_trials(plan, trials([0.595] * 4), 0.6) == [], "which may be chance"
    assert advice_on_trials(plan, trials([0.1] * 4)) == []


@pytest.mark.parametrize(
    ("rate", "path"),
    [(1.1e-4, ["space.lr/outer.low"]), (0.09, ["space.lr/outer.high"]), (0.01, [])],
)
def test_best_trials_at_the_edge_of_a_range_are_told_of(rate: float, path: list[str]) -> None:
    found = advice_on_trials(toys.plan(), trials([0.5] * 8, rate))
    assert paths(found) == path
    assert advice_on_trials(toys.plan(), trials([0.5] * 7, rate)) == []


def test_one_trial_at_the_edge_of_a_range_can_be_asked_for() -> None:
    (found,) = on_edges(toys.plan().space, trials([0.5], 0.09))
    assert str(found).startswith("space.lr/outer.high: the best trial is at the high end")


def test_each_is_told_once_also_by_the_next_process() -> None:
    plan = toys.plan()
    records = toys.records(optuna.storages.InMemoryStorage(), plan)
    told: list[Advice] = []
    found = [Advice("model.n_out", "is narrow.", "Widen it.")]
    for _ in range(2):
        adviser = Adviser(plan, records, told.append)
        adviser.report(found)
        adviser.check_trials("search")
    assert told == found
    assert records.search.notes["advice"] == {"model.n_out": "model.n_out: is narrow. Widen it."}


def test_what_later_trials_refute_is_forgotten() -> None:
    records = toys.records(optuna.storages.InMemoryStorage(), toys.plan())
    adviser = Adviser(toys.plan(), records, lambda advice: None)
    kept = Advice("tasks.train", "are few.", "Use more.")
    adviser.report([kept, Advice("model", "is worse than untrained.", "Lower the rates.")])
    adviser.report([Advice("space.lr/outer.low", "is where the best trials are.", "Decrease it.")])
    adviser.check_trials("final")
    assert records.search.notes["advice"] == {"tasks.train": str(kept)}
