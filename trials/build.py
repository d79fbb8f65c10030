"""From a recipe to the program that runs its trials."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from fewshot.faults import Fault, InputError
from fewshot.learners.learners import LEARNERS
from fewshot.learners.teacher import fit_logistic
from fewshot.models.base import Model
from fewshot.models.models import MODELS
from fewshot.randomness import fold
from fewshot.tasks.datasets import load_dataset
from fewshot.tasks.pool import TaskPool, pool
from trials.adaptation import Adaptation, NewTask
from trials.contract import Component, Recipe, Stage, TaskSpec
from trials.lanes import Lanes
from trials.meta_training import MetaTraining
from trials.objective import Objective
from trials.sources import Sources

# Which stream of episodes scores which stage. The finalists' are fresh, the test's are elsewhere.
_STREAMS: dict[Stage, int] = {"search": 1, "final": 2, "test": 3}


def build(recipe: Recipe, *, lanes: int, folder: Path, cache: Path) -> Lanes:
    """The program of `recipe`: checkpoints go to `folder`, drawn or embedded inputs to `cache`.

    Raises InputError with every fault found in the tasks.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    folder.mkdir(parents=True, exist_ok=True)
    objective = PROGRAMS[recipe.program](recipe, cache, device)
    return Lanes(objective, lanes=lanes, folder=folder, device=device)


def part(registry: dict[str, Callable[..., Any]], component: Component, path: str, **more: Any) -> Any:
    """The registered part that `component` names, built with its options."""
    if component.name not in registry:
        raise InputError(
            [Fault(f"{path}.name", f"must be one of {', '.join(registry)}.", component.name)]
        )
    try:
        return registry[component.name](**more, **component.options)
    except TypeError as error:
        raise InputError([Fault(path, f"has an option that does not fit: {error}.")]) from error


def _model(recipe: Recipe, features: tuple[int, ...], n_out: int | None = None) -> Model:
    more: dict[str, Any] = {"features": features}
    if n_out is not None:
        more["n_out"] = n_out
    model: Model = part(MODELS, recipe.model, "model", **more)
    return model


def _meta_training(recipe: Recipe, cache: Path, device: torch.device) -> Objective:
    sources = Sources(recipe.datasets, cache)
    pools = _pools(recipe, sources, device)
    key = torch.tensor(recipe.seed, device=device)

    def held_out(stage: Stage, split: str, episodes: int) -> tuple[TaskPool, int, torch.Tensor]:
        return pools[split], episodes, fold(key, _STREAMS[stage])

    features = tuple(sources.inputs.shape[1:])
    scores_classes = getattr(LEARNERS.get(recipe.learner.name), "model_scores_classes", False)
    model = _model(recipe, features, recipe.way if scores_classes else None)
    learner = part(LEARNERS, recipe.learner, "learner", model=model, way=recipe.way)
    return MetaTraining(
        learner,
        pools["train"],
        recipe.episodes,
        {
            "search": held_out("search", "validation", recipe.validation_episodes),
            "final": held_out("final", "validation", recipe.test_episodes),
            "test": held_out("test", "test", recipe.test_episodes),
        },
    )


def _pools(recipe: Recipe, sources: Sources, device: torch.device) -> dict[str, TaskPool]:
    """The pool of each split. All faults of all tasks are raised at once."""
    inputs = sources.inputs.to(device)
    pools: dict[str, TaskPool] = {}
    faults: list[Fault] = []
    for split, specs in recipe.tasks.items():
        tasks = []
        for i, spec in enumerate(specs):
            try:
                tasks.append(sources.task(spec, f"tasks.{split}.{spec.name}", recipe.seed + i))
            except InputError as error:
                faults += error.faults
        try:
            drawn = pool(tasks, inputs, way=recipe.way, shot=recipe.shot, query=recipe.query)
            pools[split] = drawn.to(device)
        except InputError as error:
            faults += [
                Fault(f.path.replace("tasks.", f"tasks.{split}.", 1), f.rule, f.found, f.remedy)
                for f in error.faults
            ]
    if faults:
        raise InputError(faults)
    return pools


def _adaptation(recipe: Recipe, cache: Path, device: torch.device) -> Objective:
    sources = Sources(recipe.datasets, cache)
    (validation,), (test,) = recipe.tasks["validation"], recipe.tasks["test"]
    task = distilled_task(recipe, sources, validation, test, cache).task
    model = _model(recipe, tuple(sources.inputs.shape[1:]), task.n_classes)
    return Adaptation(model, sources.inputs.to(device), task, recipe.batch)


@dataclass(frozen=True, eq=False)
class Distilled:
    """A new task with its teacher's knowledge, and how good the teacher is on its test queries."""

    task: NewTask
    teacher_accuracy: float
    classes: tuple[str, ...]


def distilled_task(
    recipe: Recipe, sources: Sources, validation: TaskSpec, test: TaskSpec, cache: Path
) -> Distilled:
    """The one task of an adaptation recipe. The teacher is fitted to the support alone."""
    path = f"tasks.validation.{validation.name}"
    columns = sources.dataset(validation.dataset, path).columns
    support = _support(sources, validation, path, recipe)
    codes, classes = pd.factorize(columns[validation.label].iloc[support], sort=True)
    code_of = {label: code for code, label in enumerate(classes)}
    unlabelled = sources.rows(validation, validation.unlabelled or validation.where, path)
    unlabelled = _sample(unlabelled, validation.n_unlabelled, recipe.seed)
    transfer = np.concatenate([support, unlabelled])
    assert recipe.teacher is not None, "a config without a teacher has no adaptation program"
    features = load_dataset(recipe.teacher.name, _without(recipe.teacher.options, "c"), cache).inputs
    labels = torch.from_numpy(codes)
    c = float(recipe.teacher.options.get("c", 10.0))
    weight, bias = fit_logistic(features[support], labels, len(classes), c=c)

    def queries(spec: TaskSpec, half: int | None) -> tuple[torch.Tensor, torch.Tensor]:
        rows = sources.rows(spec, spec.query or {}, f"tasks.{spec.name}.query")
        rows = rows[[columns[spec.label].iloc[row] in code_of for row in rows]]
        if half is not None:
            rows = rows[_half_of(columns[_text_column(columns)].iloc[rows]) == half]
        return torch.from_numpy(rows), torch.tensor(
            [code_of[columns[spec.label].iloc[row]] for row in rows]
        )

    query: dict[Stage, tuple[torch.Tensor, torch.Tensor]] = {
        "search": queries(validation, 0),
        "final": queries(validation, 1),
        "test": queries(test, None),
    }
    rows, answers = query["test"]
    right = (features[rows] @ weight + bias).argmax(-1) == answers
    task = NewTask(
        validation.name,
        len(classes),
        torch.from_numpy(support),
        labels,
        torch.from_numpy(transfer),
        features[transfer] @ weight + bias,
        query,
    )
    return Distilled(task, right.double().mean().item(), tuple(map(str, classes)))


def _support(sources: Sources, spec: TaskSpec, path: str, recipe: Recipe) -> np.ndarray:
    """`shot` rows of each class, drawn by the recipe's seed."""
    places = sources.rows(spec, spec.where, path)
    labels = sources.dataset(spec.dataset, path).columns[spec.label].iloc[places].to_numpy()
    rng = np.random.default_rng(recipe.seed)
    faults, chosen = [], []
    for label in sorted(set(labels)):
        members = places[labels == label]
        if len(members) < recipe.shot:
            rule = f"class {label!r} needs at least shot = {recipe.shot} examples."
            faults.append(Fault(path, rule, len(members), "Lower `shot`."))
        else:
            chosen.append(np.sort(rng.permutation(members)[: recipe.shot]))
    if faults:
        raise InputError(faults)
    return np.concatenate(chosen)


def _sample(rows: np.ndarray, n: int | None, seed: int) -> np.ndarray:
    if n is None or n >= len(rows):
        return rows
    return np.sort(np.random.default_rng(seed).permutation(rows)[:n])


def _text_column(columns: pd.DataFrame) -> str:
    return "text" if "text" in columns else str(columns.columns[0])


def _half_of(texts: Iterable[str]) -> np.ndarray:
    """0 or 1 for each text, by its content: a fixed half scores the search, the other finalists."""
    return np.array([hashlib.sha256(str(text).encode()).digest()[0] & 1 for text in texts])


def _without(options: Any, *names: str) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in names}


PROGRAMS: dict[str, Callable[[Recipe, Path, torch.device], Objective]] = {
    "adaptation": _adaptation,
    "meta_training": _meta_training,
}
