"""From the recipe's words to pools: which tasks are drawn together, and from what."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fewshot.episodes import fixed
from fewshot.errors.inputs import ErrorDetail, InputError, input_error
from fewshot.errors.parts import as_input_error
from fewshot.registry import resolve
from fewshot.tasks.base import Pool
from fewshot.tasks.datasets import UNSCALED
from fewshot.tasks.functions import FAMILIES, function_pool
from fewshot.tasks.numbers import number_pool
from fewshot.tasks.pool import pool
from trials.contract import Recipe, TaskSpec
from trials.data.disjoint import kept_rows, shared_rows
from trials.data.sources import Sources


class TaskKind(NamedTuple):
    """What tasks have in common that are drawn by one pool and learned by one learner."""

    regresses: bool
    source: str  # "functions", "rows", or "table" if those have units of their own


def task_kinds(recipe: Recipe) -> dict[TaskKind, dict[str, tuple[TaskSpec, ...]]]:
    """The tasks of each kind, by split; classification before regression."""
    return {
        task_kind: {
            split: tuple(task for task in tasks if task_kind_of(recipe, task) == task_kind)
            for split, tasks in recipe.tasks.items()
        }
        for task_kind in sorted(
            {task_kind_of(recipe, t) for tasks in recipe.tasks.values() for t in tasks}
        )
    }


def task_kind_of(recipe: Recipe, task: TaskSpec) -> TaskKind:
    """Of one of the recipe's tasks."""
    if task.function is not None:
        return TaskKind(True, "functions")
    dataset = recipe.datasets.get(task.dataset)
    unscaled = dataset is not None and dataset.name in UNSCALED
    return TaskKind(task.regresses, "table" if unscaled else "rows")


def sources_of(recipe: Recipe, cache: Path) -> Sources | None:
    """The datasets that the tasks are of; None where all are functions."""
    of_rows = any(task_kind.source != "functions" for task_kind in task_kinds(recipe))
    return Sources(recipe.datasets, cache) if of_rows else None


def pools_of(
    recipe: Recipe, sources: Sources | None, device: torch.device
) -> Mapping[TaskKind, Mapping[str, Pool]]:
    """The pools of each sort of tasks, for the splits that have any.

    Raises InputError with all faults of all tasks, or if there is not one shape for one model.
    """
    found = task_kinds(recipe)
    rows = None if sources is None else (sources, sources.inputs.to(device))
    kept = kept_of(recipe, sources)
    pools: dict[TaskKind, dict[str, Pool]] = {}
    details: list[ErrorDetail] = []
    for task_kind, by_split in found.items():
        for split, specs in by_split.items():
            if not specs:
                continue
            try:
                drawn = (
                    _of_functions(recipe, specs, split)
                    if rows is None or task_kind.source == "functions"
                    else _of_rows(recipe, specs, split, *rows, kept.get(split), task_kind.regresses)
                )
                pools.setdefault(task_kind, {})[split] = drawn.to(device)
            except InputError as error:
                details += error.details
    if rows is not None and not details and not recipe.overlap:
        details = shared_rows(_sides(recipe, rows[0]), rows[0].identity, rows[0].described)
    if details:
        raise InputError(details)
    shapes = {s.source: p.features for s, by_split in pools.items() for p in by_split.values()}
    if len(set(shapes.values())) > 1:
        raise input_error("tasks", "must all have examples of one shape for one model.", shapes)
    return pools


def kept_of(recipe: Recipe, sources: Sources | None) -> Mapping[str, np.ndarray]:
    """Which rows of all datasets each split may have (n,), where it may not have all of them."""
    if sources is None or recipe.overlap != "drop":
        return {}
    try:
        return kept_rows(_sides(recipe, sources), sources.identity)
    except InputError:  # found again, with all others, when the tasks are made
        return {}


def dropped(recipe: Recipe, sources: Sources | None) -> dict[str, int]:
    """How many examples of each split are left out because a later split has them."""
    kept = kept_of(recipe, sources)
    if sources is None or not kept:
        return {}
    rows = {
        split: np.unique(np.concatenate(list(by_task.values())))
        for split, by_task in _sides(recipe, sources).items()
        if by_task
    }
    counts = {split: int((~kept[split][own]).sum()) for split, own in rows.items()}
    return {split: n for split, n in counts.items() if n}


def _sides(recipe: Recipe, sources: Sources) -> dict[str, dict[str, np.ndarray]]:
    """The rows of each task, whatever it makes of them, by split, and then by its place."""
    return {
        split: {
            f"tasks.{split}.{spec.name}": sources.offset[spec.dataset]
            + sources.rows(spec, spec.where, f"tasks.{split}.{spec.name}")
            for spec in specs
            if spec.function is None
        }
        for split in ("train", "validation", "test")
        if (specs := recipe.tasks.get(split)) is not None
    }


def _of_functions(recipe: Recipe, specs: Sequence[TaskSpec], split: str) -> Pool:
    families = [
        resolve(FAMILIES, spec.function or "", f"tasks.{split}.{spec.name}") for spec in specs
    ]
    with as_input_error(f"tasks.{split}", "functions can't be drawn"):
        return function_pool(
            [spec.name for spec in specs],
            families,
            shot=fixed(recipe.shot),
            query=fixed(recipe.query),
        )


def _of_rows(
    recipe: Recipe,
    specs: Sequence[TaskSpec],
    split: str,
    sources: Sources,
    inputs: Tensor,
    kept: np.ndarray | None,
    regresses: bool,
) -> Pool:
    described = sources.numbers if regresses else sources.task
    pooled: Callable[..., Pool] = (
        partial(number_pool, shot=fixed(recipe.shot), query=fixed(recipe.query))
        if regresses
        else partial(
            pool,
            way=recipe.way,
            shot=recipe.shot,
            query=recipe.query,
            imbalance=recipe.imbalance,
        )
    )
    tasks: list[Any] = []  # of what `described` makes and `pooled` takes
    details: list[ErrorDetail] = []
    for i, spec in enumerate(specs):
        try:
            tasks.append(described(spec, f"tasks.{split}.{spec.name}", recipe.seed + i, kept))
        except InputError as error:
            details += error.details
    try:
        if tasks:
            drawn = pooled(tasks, inputs)
    except InputError as error:
        details += [
            ErrorDetail(f.path.replace("tasks.", f"tasks.{split}.", 1), f.rule, f.found, f.remedy)
            for f in error.details
        ]
    if details:
        raise InputError(details)
    return drawn
