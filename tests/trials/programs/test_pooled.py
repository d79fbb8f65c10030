"""Pooled models: what they learn, how they shift, and when there are none."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from fewshot.randomness import fold
from trials.contract import Component, Recipe, TaskSpec
from trials.data.pools import TaskKind, pools_of, sources_of
from trials.programs.data_summary import summarise_data
from trials.programs.pooled import (
    POOLED,
    WITH_OFFSET,
    offsets,
    pooled_model,
    reference_scores,
    variance_ratio,
)

CPU = torch.device("cpu")
NUMBERS, CLASSES = TaskKind(True, "table", "train"), TaskKind(False, "table", "train")


def recipe_of(folder, spread, **fields):
    """60 schools whose means differ by `spread`; the score is 2 * grade + school + noise."""
    rng = np.random.default_rng(0)
    school = np.repeat(np.arange(60), 20)
    grade = rng.normal(size=1200)
    noise = rng.normal(size=1200)
    score = 2 * grade + spread * rng.normal(size=60)[school] + noise
    table = pd.DataFrame({"school": school, "grade": grade, "score": score})
    table["passed"] = np.where(score > 0, "yes", "no")
    table.to_csv(folder / "t.csv", index=False)
    own = {"dataset": "pupils", "label": "score", "kind": "regression", "within": "school"} | fields
    options = {"path": str(folder / "t.csv"), "features": ["grade"], "labels": ["score"]}
    options |= {"split": "school", "scale": "train"}
    return Recipe(
        program="meta_training",
        datasets={"pupils": Component(name="table", options=options)},
        tasks={
            split: (TaskSpec(name=split, where={"split": (split,)}, **own),)
            for split in ("train", "validation", "test")
        },
        model=Component(name="mlp", options={"hidden": [4]}),
        learner=Component(name="maml"),
        way=1,
        shot=5,
        query=10,
        episodes=2,
        validation_episodes=4,
        test_episodes=400,
    )


def scores(recipe, folder, kind=NUMBERS):
    sources = sources_of(recipe, folder)
    by_split = pools_of(recipe, sources, CPU)[kind]
    model = pooled_model(recipe, sources, kind, by_split)
    if model is None:
        return None
    found = reference_scores(model, by_split["test"], fold(torch.tensor(0), 3), 400)
    return {who: float(values.mean()) for who, values in found.items()}


def test_numbers_are_explained_as_far_as_a_line_and_an_offset_can(tmp_path):
    found = scores(recipe_of(tmp_path, spread=2.0), tmp_path)
    # Of the variance 4 + 4 + 1 the line explains 4; five pupils tell the school's mean with an
    # error of 1 / 5.
    assert found[POOLED] == pytest.approx(4 / 9, abs=0.1)
    assert found[WITH_OFFSET] == pytest.approx(1 - 1.19 / 9, abs=0.05)


def test_an_offset_is_shrunk_to_nothing_where_groups_are_alike(tmp_path):
    found = scores(recipe_of(tmp_path, spread=0.0), tmp_path)
    assert found[WITH_OFFSET] == pytest.approx(found[POOLED], abs=0.02)


def test_classes_are_those_of_the_training_tasks(tmp_path):
    recipe = recipe_of(tmp_path, spread=2.0, kind="classification", label="passed")
    recipe = replace(recipe, way=2, shot=2, query=2)
    found = scores(recipe, tmp_path, CLASSES)
    assert 0.6 < found[POOLED] < 0.9
    assert found[WITH_OFFSET] > found[POOLED]  # the support says where the school stands


def test_there_is_none_for_other_columns_and_corrupted_tasks(tmp_path):
    recipe = recipe_of(tmp_path, spread=1.0)
    for change in ({"label": "grade2"}, {"corrupt": "shuffle"}, {"noise": 0.5}):
        train = (replace(recipe.tasks["train"][0], **change),)
        changed = replace(recipe, tasks={**recipe.tasks, "train": train})
        sources = sources_of(recipe, tmp_path)
        by_split = pools_of(recipe, sources, CPU)[NUMBERS]
        assert pooled_model(changed, sources, NUMBERS, by_split) is None


def test_figures_are_shown_before_any_trial(tmp_path):
    figures = summarise_data(recipe_of(tmp_path, spread=2.0), tmp_path).figures
    assert list(figures) == ["pooled model without adaptation", "pooled model with a group offset"]


def test_the_ratio_of_variances_is_estimated_from_groups():
    rng = np.random.default_rng(0)
    groups = torch.from_numpy(np.repeat(np.arange(2000), 5))
    errors = torch.from_numpy(2.0 * rng.normal(size=2000)[groups] + 3.0 * rng.normal(size=10000))
    assert variance_ratio(errors, groups) == pytest.approx(9 / 4, rel=0.15)
    assert variance_ratio(torch.ones(4), torch.arange(4)) == 0
    assert variance_ratio(torch.zeros(4), torch.tensor([0, 0, 1, 1])) == float("inf")


def test_an_offset_of_classes_maximises_the_penalised_likelihood():
    logits = torch.randn(3, 8, 2, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[0, 0, 0, 0, 0, 0, 1, -1]] * 3)
    found = offsets(logits, labels, 1.0).requires_grad_()
    real = labels >= 0
    z = (logits + found[:, None]).log_softmax(-1)
    taken = z.gather(2, labels.clamp(min=0)[..., None])[..., 0]
    gain = (taken * real).sum() - found.square().sum() / 2
    (slope,) = torch.autograd.grad(gain, found)
    assert slope.abs().max() < 0.01
    assert (offsets(logits, labels, 0.0) == 0).all()
