"""The new task of an adaptation recipe, with its teacher's logits."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewshot.episodes import fixed
from fewshot.errors.inputs import ErrorDetail, InputError
from trials.contract import Recipe, Stage, TaskSpec
from trials.data.disjoint import kept_rows, shared_rows
from trials.data.modalities import modality_errors
from trials.data.sources import Sources
from trials.programs.adaptation.adaptation import NewTask, task_without_teacher
from trials.programs.teachers import teacher_of

Where = Mapping[str, tuple[Any, ...]]


@dataclass(frozen=True, eq=False)
class DistilledTask:
    """A new task, with its teacher's accuracy on the test queries (None without a teacher)."""

    task: NewTask
    teacher_accuracy: float | None
    classes: tuple[str, ...]
    dropped: Mapping[str, int]  # examples left out of each split because a later one has them


def distilled_task(recipe: Recipe, sources: Sources, cache: Path) -> DistilledTask:
    """The task of `recipe`. The teacher sees the labels of the support only."""
    if details := modality_errors(recipe, sources):
        raise InputError(details)
    (validation,), (test,) = recipe.tasks["validation"], recipe.tasks["test"]
    path = f"tasks.validation.{validation.name}"
    kept, dropped = _kept(recipe, sources, validation, test, path)
    support, codes, classes = _support(recipe, sources, validation, path, kept["train"])
    offset = sources.offset[validation.dataset]
    support_rows = torch.from_numpy(support + offset)
    scoring = partial(_queries, sources, validation, classes, f"{path}.query", kept["validation"])
    place = f"tasks.test.{test.name}.query"
    queries: dict[Stage, tuple[Tensor, Tensor]] = {
        "search": scoring(half=0),
        "final": scoring(half=1),
        "test": _queries(sources, test, classes, place, kept["test"], half=None),
    }
    rows, answers = queries["test"]
    learned_from = {f"{path}.where": support + offset}
    task = task_without_teacher(validation.name, len(classes), support_rows, codes, queries)
    if recipe.teacher is not None:
        unlabelled = sources.rows(validation, validation.unlabelled or validation.where, path)
        unlabelled = unlabelled[kept["train"][unlabelled + offset]]
        unlabelled = _sample(unlabelled, validation.n_unlabelled, recipe.seed)
        learned_from[f"{path}.unlabelled"] = unlabelled + offset
    scored_by = {f"{path}.query": torch.cat([queries["search"][0], queries["final"][0]]).numpy()}
    sides = {"train": learned_from, "validation": scored_by, "test": {place: rows.numpy()}}
    if not recipe.overlap and (details := shared_rows(sides, sources.identity, sources.described)):
        raise InputError(details)
    if recipe.teacher is None:
        return DistilledTask(task, None, classes, dropped)
    transfer = np.concatenate([support, unlabelled])
    logits = teacher_of(recipe, sources, cache, classes=classes).labelled(support_rows, codes)
    transfer_rows = torch.from_numpy(transfer + offset)
    task = replace(task, transfer=transfer_rows, teacher=logits[transfer_rows])
    right = logits[rows].argmax(-1) == answers
    return DistilledTask(task, right.double().mean().item(), classes, dropped)


def _kept(
    recipe: Recipe, sources: Sources, validation: TaskSpec, test: TaskSpec, path: str
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Per split, a mask (n,) of the rows that it may use, and the number of rows that it loses."""
    everything = np.ones(len(sources.inputs), dtype=bool)
    if recipe.overlap != "drop":
        return dict.fromkeys(("train", "validation", "test"), everything), {}

    def rows(spec: TaskSpec, where: Where) -> np.ndarray:
        found: np.ndarray = sources.rows(spec, where, path) + sources.offset[spec.dataset]
        return found

    learned_from = rows(validation, validation.where)
    if recipe.teacher is not None:
        unlabelled = rows(validation, validation.unlabelled or validation.where)
        learned_from = np.union1d(learned_from, unlabelled)
    own = {
        "train": learned_from,
        "validation": rows(validation, validation.query or {}),
        "test": rows(test, test.query or {}),
    }
    kept = kept_rows({split: {split: found} for split, found in own.items()}, sources.identity)
    lost = {split: int((~kept[split][found]).sum()) for split, found in own.items()}
    return kept, {split: n for split, n in lost.items() if n}


def _support(
    recipe: Recipe, sources: Sources, spec: TaskSpec, path: str, kept: np.ndarray
) -> tuple[np.ndarray, Tensor, tuple[str, ...]]:
    """The support: rows of `shot` examples per class, their class codes, and the class names.

    The rows are drawn with the recipe's seed.
    """
    places = sources.rows(spec, spec.where, path)
    labels = sources.labels(spec, path)[places]
    shot, rng = fixed(recipe.shot), np.random.default_rng(recipe.seed)
    classes = tuple(sorted(set(labels)))
    free = kept[places + sources.offset[spec.dataset]]
    members = {label: places[(labels == label) & free] for label in classes}
    details = [
        ErrorDetail(path, f"class {label!r} needs at least shot = {shot} examples.", len(rows))
        for label, rows in members.items()
        if len(rows) < shot
    ]
    if details:
        raise InputError(details)
    chosen = [np.sort(rng.permutation(rows)[:shot]) for rows in members.values()]
    codes = torch.arange(len(classes)).repeat_interleave(shot)
    return np.concatenate(chosen), codes, classes


def _queries(
    sources: Sources,
    spec: TaskSpec,
    classes: tuple[str, ...],
    path: str,
    kept: np.ndarray,
    *,
    half: int | None,
) -> tuple[Tensor, Tensor]:
    """Rows and class codes of the queries whose class is in the support.

    half: 0 or 1 selects one half of the queries; None selects all.
    """
    rows = sources.rows(spec, spec.query or {}, path)
    rows = rows[kept[rows + sources.offset[spec.dataset]]]
    labels = sources.labels(spec, path)
    code_of = {label: code for code, label in enumerate(classes)}
    rows = rows[np.array([labels[row] in code_of for row in rows], dtype=bool)]
    if half is not None:
        rows = rows[_half_of(rows) == half]
    if not len(rows):
        raise InputError([ErrorDetail(path, "selects no row of a class that the support has.")])
    codes = torch.tensor([code_of[labels[row]] for row in rows])
    return torch.from_numpy(rows + sources.offset[spec.dataset]), codes


def _sample(rows: np.ndarray, n: int | None, seed: int) -> np.ndarray:
    if n is None or n >= len(rows):
        return rows
    return np.sort(np.random.default_rng(seed).permutation(rows)[:n])


def _half_of(rows: np.ndarray) -> np.ndarray:
    """0 or 1 for each row number: half 0 scores the search, half 1 scores the finalists."""
    return np.array([hashlib.sha256(str(int(row)).encode()).digest()[0] & 1 for row in rows])
