from dataclasses import replace

import pytest

from fewshot.errors.inputs import InputError
from tests.trials.conformance import functions, lora, mixed, protonet
from trials.programs.similarity import affinity
from trials.programs.similarity.affinity import affinities


@pytest.mark.parametrize("make", [protonet, lora])
def test_each_training_task_has_an_affinity(make, tmp_path):
    case = make(tmp_path)
    found = affinities(case.recipe, case.cache)
    assert found.keys() == {task.name for task in case.recipe.tasks["train"]}
    assert all(value >= 0 for value in found.values())
    assert found == affinities(case.recipe, case.cache)


@pytest.mark.parametrize("make", [functions, mixed])
def test_there_is_none_without_an_untrained_model_or_for_several_kinds(make, tmp_path):
    case = make(tmp_path)
    assert affinities(case.recipe, case.cache) == {}


def test_shuffled_labels_have_almost_none_and_the_nearest_task_has_most(tmp_path):
    case = protonet(tmp_path)
    (near, *_), (_, *others) = case.recipe.tasks["validation"], case.recipe.tasks["train"]
    train = (
        replace(near, name="same"),
        replace(near, name="same_shuffled", corrupt="shuffle"),
        *others,
    )
    recipe = replace(
        case.recipe,
        overlap=True,
        tasks={**case.recipe.tasks, "train": train, "validation": (near,)},
    )
    found = affinities(recipe, case.cache)
    assert max(found, key=lambda task: found[task]) == "same"
    assert found["same_shuffled"] < 0.2 * found["same"]


def test_many_tasks_are_measured_on_fewer_examples(tmp_path, monkeypatch):
    case = protonet(tmp_path)
    monkeypatch.setattr(affinity, "_ALL_EXAMPLES", 60)
    drawn = []
    features = affinity.features_of
    monkeypatch.setattr(
        affinity, "features_of", lambda r, x, c: drawn.append(x.shape[1]) or features(r, x, c)
    )
    assert affinities(case.recipe, case.cache).keys() == {
        t.name for t in case.recipe.tasks["train"]
    }
    assert drawn[0] <= 2 * 60


def test_a_model_that_raises_is_named(tmp_path, monkeypatch):
    case = protonet(tmp_path)

    def raises(*_):
        raise ZeroDivisionError("in the model")

    monkeypatch.setattr(affinity, "features_of", raises)
    with pytest.raises(InputError, match=r"model: can't embed the examples: ZeroDivisionError"):
        affinities(case.recipe, case.cache)
