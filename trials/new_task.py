"""The one new task of an adaptation recipe, with what its teacher, if any, says of it."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fewshot.episodes import fixed
from fewshot.faults import Fault, InputError
from trials.adaptation import NewTask, untaught
from trials.contract import Recipe, Stage, TaskSpec
from trials.disjoint import shared_rows
from trials.sources import Sources
from trials.teachers import teacher_of


@dataclass(frozen=True, eq=False)
class Distilled:
    """A new task, and how good its teacher, if it has one, is on the test queries."""

    task: NewTask
    teacher_accuracy: float | None
    classes: tuple[str, ...]


def distilled_task(recipe: Recipe, sources: Sources, cache: Path) -> Distilled:
    """The task of `recipe`. Of its labels the teacher has those of the support, no others."""
    (validation,), (test,) = recipe.tasks["validation"], recipe.tasks["test"]
    path = f"tasks.validation.{validation.name}"
    support, codes, classes = _support(recipe, sources, validation, path)
    begin = sources.offset[validation.dataset]
    shown = torch.from_numpy(support + begin)
    queries: dict[Stage, tuple[Tensor, Tensor]] = {
        "search": _queries(sources, validation, classes, f"{path}.query", half=0),
        "final": _queries(sources, validation, classes, f"{path}.query", half=1),
        "test": _queries(sources, test, classes, f"tasks.test.{test.name}.query", half=None),
    }
    rows, answers = queries["test"]
    learned_from = {f"{path}.where": support + begin}
    task = untaught(validation.name, len(classes), shown, codes, queries)
    if recipe.teacher is not None:
        unlabelled = sources.rows(validation, validation.unlabelled or validation.where, path)
        unlabelled = _sample(unlabelled, validation.n_unlabelled, recipe.seed)
        learned_from[f"{path}.unlabelled"] = unlabelled + begin
    scored_by = {f"{path}.query": torch.cat([queries["search"][0], queries["final"][0]]).numpy()}
    tested_by = {f"tasks.test.{test.name}.query": rows.numpy()}
    sides = {"train": learned_from, "validation": scored_by, "test": tested_by}
    if not recipe.overlap and (faults := shared_rows(sides)):
        raise InputError(faults)
    if recipe.teacher is None:
        return Distilled(task, None, classes)
    transfer = np.concatenate([support, unlabelled])
    logits = teacher_of(recipe, sources, cache, classes=classes).labelled(shown, codes)
    seen = torch.from_numpy(transfer + begin)
    task = replace(task, transfer=seen, teacher=logits[seen])
    right = logits[rows].argmax(-1) == answers
    return Distilled(task, right.double().mean().item(), classes)


def _support(
    recipe: Recipe, sources: Sources, spec: TaskSpec, path: str
) -> tuple[np.ndarray, Tensor, tuple[str, ...]]:
    """Rows of `shot` examples of each class, drawn by the recipe's seed; codes; the classes."""
    places = sources.rows(spec, spec.where, path)
    labels = sources.labels(spec, path)[places]
    shot, rng = fixed(recipe.shot), np.random.default_rng(recipe.seed)
    classes = tuple(sorted(set(labels)))
    members = {label: places[labels == label] for label in classes}
    faults = [
        Fault(path, f"class {label!r} needs at least shot = {shot} examples.", len(rows))
        for label, rows in members.items()
        if len(rows) < shot
    ]
    if faults:
        raise InputError(faults)
    chosen = [np.sort(rng.permutation(rows)[:shot]) for rows in members.values()]
    codes = torch.arange(len(classes)).repeat_interleave(shot)
    return np.concatenate(chosen), codes, classes


def _queries(
    sources: Sources, spec: TaskSpec, classes: tuple[str, ...], path: str, *, half: int | None
) -> tuple[Tensor, Tensor]:
    """Rows and codes of the queries whose class the support has; of a half of them, or of all."""
    rows = sources.rows(spec, spec.query or {}, path)
    labels = sources.labels(spec, path)
    code_of = {label: code for code, label in enumerate(classes)}
    rows = rows[np.array([labels[row] in code_of for row in rows], dtype=bool)]
    if half is not None:
        rows = rows[_half_of(rows) == half]
    if not len(rows):
        raise InputError([Fault(path, "keeps no row of a class that the support has.")])
    codes = torch.tensor([code_of[labels[row]] for row in rows])
    return torch.from_numpy(rows + sources.offset[spec.dataset]), codes


def _sample(rows: np.ndarray, n: int | None, seed: int) -> np.ndarray:
    if n is None or n >= len(rows):
        return rows
    return np.sort(np.random.default_rng(seed).permutation(rows)[:n])


def _half_of(rows: np.ndarray) -> np.ndarray:
    """0 or 1 for each row, by its place: one half scores the search, the other the finalists."""
    return np.array([hashlib.sha256(str(int(row)).encode()).digest()[0] & 1 for row in rows])
