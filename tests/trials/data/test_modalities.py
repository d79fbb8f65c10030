"""The text of a query reaches no learner, whatever trains and whatever scores it."""

from dataclasses import replace

import pytest
import torch

from fewshot.errors.inputs import InputError
from tests.trials.data.noise import WIDTH
from trials.contract import Component, Recipe, TaskSpec, TrialSpec
from trials.data.pools import pools_of
from trials.data.sources import Sources
from trials.programs.build import build
from trials.programs.data_summary import summarise_data

TOWERS = Component(name="two_towers", options={"text": WIDTH, "hidden": 8, "n_out": 8})
PARTS = {
    "modal_protonet": (Component(name="modal_protonet"), TOWERS),
    "protonet": (
        Component(name="protonet"),
        Component(name="mlp", options={"hidden": [8], "n_out": 8}),
    ),
    "maml": (
        Component(name="fomaml", options={"inner_steps": 1, "adapt_steps": 1}),
        Component(name="mlp", options={"hidden": [8]}),
    ),
    "baseline": (Component(name="baseline"), Component(name="mlp", options={"hidden": [8]})),
}


def recipe(query: str = "image", parts: str = "modal_protonet", **changes) -> Recipe:
    learner, model = PARTS[parts]
    tasks = {
        split: (TaskSpec(name=split, dataset="noise", label="label", where={"split": (split,)}),)
        for split in ("train", "validation", "test")
    }
    fields = {
        "program": "meta_training",
        "datasets": {
            "noise": Component(name="tests.trials.data.noise:load", options={"query": query})
        },
        "tasks": tasks,
        "model": model,
        "learner": learner,
        "way": 2,
        "shot": 1,
        "query": 4,
        "episodes": 4,
        "validation_episodes": 300,
        "test_episodes": 300,
    }
    return Recipe(**(fields | changes))


def accuracy(own: Recipe, tmp_path, steps: int = 30) -> float:
    """On the test task, after training."""
    program = build(own, lanes=1, folder=tmp_path / "runs", cache=tmp_path)
    trains = bool(own.tasks["train"])
    hyper = {"lr/outer": 0.01, "lr/inner": 0.1, "lr/adapt": 0.1, "modal/text": 0.8}
    spec = TrialSpec(
        number=0,
        seed=0,
        stage="test",
        recipe=own,
        hyperparameters=hyper if trains else {},
        task_weights={"train": 1.0} if trains else {},
        rungs=(steps if trains else 0,),
    )
    program.admit(spec)
    program.advance()
    (adaptation,) = program.release(spec.key, "complete").adaptations
    return adaptation.metrics["accuracy"]


@pytest.mark.parametrize("parts", PARTS)
def test_images_of_noise_are_at_chance_though_their_texts_are_the_classes(parts, tmp_path):
    assert abs(accuracy(recipe(parts=parts), tmp_path) - 0.5) < 0.08


def test_texts_that_queries_may_show_tell_the_classes(tmp_path):
    assert accuracy(recipe("both"), tmp_path) > 0.85


def test_queries_are_drawn_without_their_text_and_supports_with_it(tmp_path):
    own = recipe()
    sources = Sources(own.datasets, tmp_path)
    for by_split in pools_of(own, sources, torch.device("cpu")).values():
        for pool in by_split.values():
            drawn = pool.draw(torch.arange(20), 2)
            assert (drawn.support_x[..., -1] == 1).all()
            assert not drawn.query_x[..., -WIDTH - 1 :].any()
            assert (drawn.query_x[..., :3] > 0).any(-1).all()


def test_the_untrained_model_compares_images_alone(tmp_path):
    plain = summarise_data(recipe("both"), tmp_path).untrained
    assert plain.model == Component(name="untrained", options={"leave_out": WIDTH + 1})
    assert abs(accuracy(plain, tmp_path) - 0.5) < 0.08


def refused(own: Recipe, tmp_path) -> list[str]:
    with pytest.raises(InputError) as caught:
        summarise_data(own, tmp_path)
    return [f"{detail.path}: {detail.rule}" for detail in caught.value.details]


def test_a_wrong_number_of_text_features_is_named(tmp_path):
    wrong = replace(TOWERS, options={**TOWERS.options, "text": WIDTH - 1})
    (rule,) = refused(recipe(model=wrong), tmp_path)
    assert rule == "model.text: must be 16, the number of text features of datasets.noise."


def test_two_towers_need_texts(tmp_path):
    glyphs = {"noise": Component(name="glyphs", options={"size": 4, "per_character": 2})}
    script = TaskSpec(name="a", dataset="noise", label="character", where={"script": ("lao",)})
    tasks = dict.fromkeys(("train", "validation", "test"), (script,))
    own = recipe(datasets=glyphs, tasks=tasks, overlap=True, query=1)
    assert "needs texts" in refused(own, tmp_path)[0]


def test_everything_that_can_not_hide_a_text_is_refused_at_once(tmp_path):
    numbers = replace(recipe().tasks["test"][0], label="number", kind="regression")
    own = recipe(
        tasks={**recipe().tasks, "test": (numbers,)}, teacher=Component(name="glyphs", options={})
    )
    found = refused(own, tmp_path)
    assert [rule.partition(":")[0] for rule in found] == ["teacher", "tasks.test.test.kind"]
