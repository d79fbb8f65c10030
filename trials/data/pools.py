"""Builds the pools from which the tasks of a recipe draw episodes."""

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
from fewshot.tasks.pool import pool
from fewshot.tasks.regression import regression_pool
from trials.contract import Recipe, TaskSpec
from trials.data.disjoint import kept_rows, shared_rows
from trials.data.fixed_classes import classes_that_differ
from trials.data.modalities import modality_errors
from trials.data.shared_groups import kept_of_groups, shared_groups
from trials.data.sources import Load, Sources


class TaskKind(NamedTuple):
    """The properties that tasks must have in common to share a pool and a learner."""

    regresses: bool
    source: str  # "functions", "table" (rows whose features have units), or "rows" (all others)
    scale: str = "support"  # of tables: one of fewshot.tasks.tables.options.SCALES


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
    """The kind of one of the recipe's tasks."""
    if task.function is not None:
        return TaskKind(True, "functions")
    dataset = recipe.datasets.get(task.dataset)
    unscaled = dataset is not None and dataset.name in UNSCALED
    if not unscaled or dataset is None:
        return TaskKind(task.regresses, "rows")
    scale = dataset.options.get("scale", "support")
    return TaskKind(task.regresses, "table", scale if isinstance(scale, str) else "train")


def sources_of(recipe: Recipe, cache: Path, load: Load = Sources) -> Sources | None:
    """The datasets of the tasks; None if all tasks are functions."""
    of_rows = any(task_kind.source != "functions" for task_kind in task_kinds(recipe))
    return load(recipe.datasets, cache) if of_rows else None


def pools_of(
    recipe: Recipe, sources: Sources | None, device: torch.device
) -> Mapping[TaskKind, Mapping[str, Pool]]:
    """For each kind of task, its pools by split, for the splits that have such tasks.

    Raises InputError with all errors of all tasks, or if examples differ in shape.
    """
    kinds = task_kinds(recipe)
    if sources is not None and (details := modality_errors(recipe, sources)):
        raise InputError(details)
    rows = None if sources is None else (sources, sources.drawn_on(device))
    kept = kept_of(recipe, sources)
    pools: dict[TaskKind, dict[str, Pool]] = {}
    details = []
    for task_kind, by_split in kinds.items():
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
    if rows is not None and not details and recipe.fixed_classes:
        details = classes_that_differ(recipe, rows[0])
    if rows is not None and not details and not recipe.overlap:
        details = shared_groups(recipe, rows[0]) or shared_rows(
            _sides(recipe, rows[0]), rows[0].identity, rows[0].described
        )
    if details:
        raise InputError(details)
    shapes = {s.source: p.features for s, by_split in pools.items() for p in by_split.values()}
    if len(set(shapes.values())) > 1:
        raise input_error("tasks", "must all have examples of the same shape.", shapes)
    return pools


def kept_of(recipe: Recipe, sources: Sources | None) -> Mapping[str, np.ndarray]:
    """For each split a mask (n,) of the rows that it may use; empty if all may use all rows."""
    if sources is None or recipe.overlap != "drop":
        return {}
    try:
        kept = kept_rows(_sides(recipe, sources), sources.identity)
        of_groups = kept_of_groups(recipe, sources)
        return {split: mask & of_groups.get(split, True) for split, mask in kept.items()}
    except InputError:  # raised again, with all other errors, when the tasks are built
        return {}


def dropped(recipe: Recipe, sources: Sources | None) -> dict[str, int]:
    """Number of examples that each split loses because a later split has them."""
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
    """The rows of each task, by split and by the task's path in the config."""
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
        partial(regression_pool, shot=fixed(recipe.shot), query=fixed(recipe.query))
        if regresses
        else partial(
            pool,
            way=recipe.way,
            shot=recipe.shot,
            query=recipe.query,
            imbalance=recipe.imbalance,
            query_offset=sources.query_offset,
            fixed_classes=recipe.fixed_classes,
        )
    )
    tasks: list[Any] = []  # of the type that `described` returns and `pooled` takes
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
