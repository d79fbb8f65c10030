"""The scale of features and numbers of tables with `scale: train`.

It is the mean and the standard deviation over the examples of the training tasks, which all trials
of a search share. A recipe names it by numbers once it is known, so a model that is trained can be
used without the training data.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fewshot.errors.inputs import ErrorDetail, InputError, input_error
from fewshot.learners.scaled import Scale, scale_of
from fewshot.tasks.base import Pool
from fewshot.tasks.pool import TaskPool
from fewshot.tasks.regression import RegressionPool
from trials.contract import Recipe
from trials.data.pools import TaskKind

SCALE = "scale"  # the option of a dataset
_OF = ("features", "numbers")


def with_scales(recipe: Recipe, pools: Mapping[TaskKind, Mapping[str, Pool]]) -> Recipe:
    """The recipe with the numbers of its scales, which come from the pools of training tasks.

    Raises InputError if there is no training task with `scale: train`, or if such tasks predict
    numbers of several columns, which have different units.
    """
    waiting = [name for name, part in recipe.datasets.items() if part.options.get(SCALE) == "train"]
    if not waiting:
        return recipe
    train = [
        by_split["train"]
        for task_kind, by_split in pools.items()
        if task_kind.scale == "train" and "train" in by_split
    ]
    _check(recipe, waiting, bool(train))
    rows = [pool for pool in train if isinstance(pool, TaskPool | RegressionPool)]
    examples = torch.cat([own for pool in rows for own in pool.rows]).unique()
    numbers = [pool.values for pool in rows if isinstance(pool, RegressionPool)]
    found = {"features": _plain(rows[0].inputs[examples].flatten(1))}
    if numbers:
        found["numbers"] = _plain(torch.cat(numbers)[:, None])
    datasets = {
        name: replace(part, options={**part.options, SCALE: found}) if name in waiting else part
        for name, part in recipe.datasets.items()
    }
    return replace(recipe, datasets=datasets)


def _check(recipe: Recipe, waiting: list[str], trained: bool) -> None:
    details = []
    if not trained:
        rule = "needs training tasks of a dataset with `scale: train`."
        details.append(
            ErrorDetail(f"datasets.{waiting[0]}.{SCALE}", rule, "train", "Use scale: support.")
        )
    labels = {
        task.label
        for tasks in recipe.tasks.values()
        for task in tasks
        if task.regresses and task.dataset in waiting
    }
    if len(labels) > 1:
        rule = "must be `support` or `none` if tasks predict numbers of several columns."
        remedy = (
            "Numbers of different columns have different units, and are scaled by each support."
        )
        place = f"datasets.{waiting[0]}.{SCALE}"
        details.append(ErrorDetail(place, rule, ", ".join(sorted(labels)), remedy))
    if details:
        raise InputError(details)


def _plain(x: Tensor) -> dict[str, list[float]]:
    """The scale of x (n, d) as plain numbers."""
    scale = scale_of(x.double()[None], torch.ones(1, len(x), device=x.device))
    return {"mean": scale.mean[0, 0].tolist(), "spread": scale.spread[0, 0].tolist()}


def fixed_scales(
    recipe: Recipe, task_kind: TaskKind, device: torch.device
) -> tuple[Scale | None, Scale | None]:
    """The scales of features and numbers of the tables with `scale: train`, on the device.

    They are None if there are none.

    Raises InputError if the recipe does not have their numbers.
    """
    if task_kind.source != "table" or task_kind.scale != "train":
        return None, None
    known = [part.options.get(SCALE) for part in recipe.datasets.values()]
    found = [scale for scale in known if isinstance(scale, Mapping)]
    if not found:
        rule = "has `scale: train`, whose numbers only the export of a model has."
        raise input_error("datasets", rule, None, "Export the model, and use the export.")
    features, numbers = (_scale(found[0].get(name), device) for name in _OF)
    return features, numbers


def _scale(given: Any, device: torch.device) -> Scale | None:
    if given is None:
        return None
    parts = (torch.tensor(given[part], device=device) for part in ("mean", "spread"))
    return Scale(*(part.view(1, 1, -1) for part in parts))
