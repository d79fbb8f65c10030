"""The recipe of the untrained model, one of the references of a search."""

from collections.abc import Mapping
from dataclasses import replace

from fewshot.models.models import is_pretrained
from fewshot.tasks.base import Pool
from fewshot.tasks.functions import FunctionPool
from fewshot.tasks.pool import TaskPool
from fewshot.tasks.regression import RegressionPool
from trials.contract import Component, Recipe
from trials.data.pools import TaskKind
from trials.data.scales import with_scales

_MODEL = "untrained"


def is_untrained(recipe: Recipe) -> bool:
    """Whether a recipe is that of an untrained model."""
    trains = recipe.program in ("meta_training", "worlds")
    return trains and not recipe.tasks.get("train")


def untrained(recipe: Recipe, pools: Mapping[TaskKind, Mapping[str, Pool]]) -> Recipe | None:
    """The recipe of a model that predicts the held-out tasks of `recipe` without training.

    A pretrained model of the recipe gives the features; otherwise the raw inputs are the features.
    Classification uses the nearest class mean, regression uses ridge regression. The result is None
    for functions and for token ids without a pretrained model, which are not useful as features.

    pools: the pools of the recipe, by kind of task and split.
    """
    recipe = with_scales(recipe, pools)
    held_out = [
        pool for by_split in pools.values() for split, pool in by_split.items() if split != "train"
    ]
    model = recipe.model
    if not is_pretrained(model.name):
        if not all(_means_something(pool) for pool in held_out):
            return None
        model = Component(name=_MODEL, options=_left_out(model))
    tasks = {**recipe.tasks, "train": ()}
    alone = replace(recipe, tasks=tasks, model=model, teacher=None)
    return replace(alone, learner=Component(name="ridge" if alone.regresses else "protonet"))


def _left_out(model: Component) -> dict[str, int]:
    """The options that leave out texts: raw features of texts and images can't be compared."""
    text = model.options.get("text") if model.name == "two_towers" else None
    return {} if text is None else {"leave_out": text + 1}


def _means_something(pool: Pool) -> bool:
    if isinstance(pool, FunctionPool):
        return False
    assert isinstance(pool, TaskPool | RegressionPool), "there are no other pools of rows"
    return pool.inputs.is_floating_point()
