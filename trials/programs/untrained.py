"""The recipe of the untrained model: what a search has to beat without any training."""

from collections.abc import Mapping
from dataclasses import replace

from fewshot.tasks.base import Pool
from fewshot.tasks.functions import FunctionPool
from fewshot.tasks.numbers import NumberPool
from fewshot.tasks.pool import TaskPool
from trials.contract import Component, Recipe
from trials.data.pools import TaskKind

_MODEL = "untrained"


def is_untrained(recipe: Recipe) -> bool:
    """Whether a recipe is one of the untrained model."""
    return recipe.model.name == _MODEL


def untrained(recipe: Recipe, pools: Mapping[TaskKind, Mapping[str, Pool]]) -> Recipe | None:
    """The same held-out tasks, answered from the inputs as they are; None where that is nothing.

    A class is the mean of its support examples, and a number is told by ridge regression. Points of
    functions and ids of tokens mean nothing before training.

    pools: of the recipe, by sort and split.
    """
    held_out = [
        pool for by_split in pools.values() for split, pool in by_split.items() if split != "train"
    ]
    if not all(_means_something(pool) for pool in held_out):
        return None
    tasks = {**recipe.tasks, "train": ()}
    alone = replace(recipe, tasks=tasks, model=Component(name=_MODEL), teacher=None)
    return replace(alone, learner=Component(name="ridge" if alone.regresses else "protonet"))


def _means_something(pool: Pool) -> bool:
    if isinstance(pool, FunctionPool):
        return False
    assert isinstance(pool, TaskPool | NumberPool), "there are no other pools of rows"
    return pool.inputs.is_floating_point()
