"""The measures see what is alike, and nothing in labels without meaning."""

import math
from dataclasses import replace

import pytest

from fewshot.errors.inputs import InputError
from fewshot.metrics import Estimate
from tests.trials.conformance import (
    baseline_pp,
    distillation,
    functions,
    lora,
    maml,
    mixed,
    protonet,
    ridge,
)
from trials.contract import TaskSpec
from trials.programs.similarity import gradients
from trials.programs.similarity.affinity import affinities
from trials.programs.similarity.similarity import MEASURES, over_tasks, similarity


@pytest.mark.parametrize("make", [protonet, ridge, baseline_pp, maml, functions, lora])
def test_each_pair_of_tasks_has_a_value_with_an_error(make, tmp_path):
    case = make(tmp_path)
    found = similarity(case.recipe, case.cache, case.hyperparameters)
    assert found.train == tuple(task.name for task in case.recipe.tasks["train"])
    assert found.validation == tuple(task.name for task in case.recipe.tasks["validation"])
    assert set(found.tables) == set(MEASURES)
    for table in found.tables.values():
        assert len(table) == len(found.train)
        for row in table:
            assert len(row) == len(found.validation)
            assert all(math.isfinite(one.mean) and one.standard_error >= 0 for one in row)
    assert sorted(found.ranking()) == sorted(found.train)
    assert all(0 <= value <= 2 for value in found.coverage.values())
    assert found == similarity(case.recipe, case.cache, case.hyperparameters)


def test_tasks_of_several_kinds_have_gradients_only(tmp_path):
    case = mixed(tmp_path)
    found = similarity(case.recipe, case.cache, case.hyperparameters)
    assert set(found.tables) == {"gradient"}
    assert set(found.ranking()) == set(found.train)
    assert not found.coverage
    assert not found.affinity


def test_the_affinity_is_the_one_that_the_sampler_gets(tmp_path):
    case = protonet(tmp_path)
    found = similarity(case.recipe, case.cache, case.hyperparameters)
    assert found.affinity == pytest.approx(affinities(case.recipe, case.cache), abs=1e-6)


def test_every_measure_of_labels_ranks_shuffled_labels_below_true_ones(tmp_path):
    case = protonet(tmp_path)
    near = case.recipe.tasks["validation"][0]
    train = (replace(near, name="same"), replace(near, name="shuffled", corrupt="shuffle"))
    recipe = replace(
        case.recipe,
        overlap=True,
        tasks={**case.recipe.tasks, "train": train, "validation": (near,)},
    )
    found = similarity(recipe, case.cache, case.hyperparameters)
    assert found.ranking() == ["same", "shuffled"]
    for measure in ("transfer", "gradient"):
        means = found.means(measure)
        assert means["same"].interval()[0] > max(0.0, means["shuffled"].mean)
        assert means["shuffled"].mean < 0.5 * means["same"].mean
    nearness = found.means("nearness")
    assert nearness["same"].mean == pytest.approx(nearness["shuffled"].mean, abs=0.3)


def test_episodes_may_differ_in_their_number_of_classes(tmp_path):
    case = protonet(tmp_path)
    recipe = replace(case.recipe, way=(2, 4), shot=(1, 3))
    found = similarity(recipe, case.cache, case.hyperparameters)
    values = [one.mean for table in found.tables.values() for row in table for one in row]
    assert all(map(math.isfinite, values))


def test_a_family_of_functions_is_most_like_itself(tmp_path):
    case = functions(tmp_path)
    tasks = {
        **case.recipe.tasks,
        "train": tuple(TaskSpec(name=f, function=f) for f in ("noise", "line", "sinusoid")),
        "validation": (TaskSpec(name="waves", function="sinusoid"),),
    }
    recipe = replace(case.recipe, tasks=tasks, shot=10)
    found = similarity(recipe, case.cache, case.hyperparameters)
    assert found.ranking()[0] == "sinusoid"
    transfer, nearness = found.means("transfer"), found.means("nearness")
    assert transfer["sinusoid"].mean > 0.95
    assert transfer["noise"].mean < 0.2
    assert max(nearness, key=lambda task: nearness[task].mean) == "sinusoid"
    assert found.coverage["waves"] == pytest.approx(1, abs=0.1)


def test_long_gradients_are_shortened_without_a_change_of_the_ranking(tmp_path, monkeypatch):
    case = protonet(tmp_path)
    whole = similarity(case.recipe, case.cache, case.hyperparameters).means("gradient")
    monkeypatch.setattr(gradients, "_LONGEST", 100)  # of 198 parameters
    short = similarity(case.recipe, case.cache, case.hyperparameters).means("gradient")
    for task, one in whole.items():
        assert short[task].mean == pytest.approx(one.mean, abs=0.3)


def test_three_tasks_are_a_sample_and_fewer_are_not():
    row = [Estimate(mean, 0.01, 10) for mean in (0.1, 0.5, 0.9)]
    assert over_tasks(row).standard_error == pytest.approx(0.4 / 3**0.5)
    assert over_tasks(row[:2]).standard_error == pytest.approx(0.01 / 2**0.5)


def test_a_recipe_without_training_tasks_is_refused(tmp_path):
    case = distillation(tmp_path)
    with pytest.raises(InputError, match="no training tasks"):
        similarity(case.recipe, case.cache, case.hyperparameters)
