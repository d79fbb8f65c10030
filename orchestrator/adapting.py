"""An exported model learns a new task from a table of examples, and labels the rest of it."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from fewshot.faults import fault
from fewshot.metrics import accuracy, macro_f1
from fewshot.tasks.base import Dataset
from fewshot.tasks.datasets import load_dataset
from fewshot.tasks.files import write_text
from orchestrator import config as configs
from orchestrator.home import Home
from orchestrator.plan import plan_of
from orchestrator.schema.config import Config
from orchestrator.schema.parts import DatasetPart, TeacherPart
from orchestrator.schema.tasks import TaskSection
from trials.contract import Component
from trials.deployment import classify, distil
from trials.teachers import TRAINED


@dataclass(frozen=True)
class Adapted:
    """Where the predictions lie, and how good they are where the labels were known."""

    predictions: Path
    classes: int
    support: int
    predicted: int
    metrics: dict[str, float]  # empty if no label of a predicted row is known


def adapt(folder: Path, data: str, *, shots: int, label: str, out: Path, home: Home) -> Adapted:
    """Learn from the first `shots` labelled rows of each class in `data`, and predict all others.

    folder: an export. data: of the kind that the model was trained on; a row with an empty label is
    only predicted. Raises InputError if the data does not fit.
    """
    if not (folder / "model.safetensors").exists():
        raise fault("DIR", "is not a folder that `fewtune export` wrote.", str(folder))
    config = configs.load_config(folder / "config.yaml")
    student = next((task for task in config.tasks.validation if not task.regresses), None)
    if not isinstance(student, TaskSection):
        rule = "is a model of numbers; only classes can be learned from a table."
        raise fault("DIR", rule, str(folder))
    part = _part(config.datasets[student.dataset], data, folder)
    found = load_dataset(part.name, part.options, home.cache)
    if label not in found.columns:
        known = ", ".join(map(str, found.columns.columns))
        raise fault("--label", f"must be a column of {data}: {known}.", label)
    labels = found.columns[label].fillna("").astype(str).to_numpy()
    classes = sorted(set(labels) - {""})
    support = _support(labels, classes, shots, data)
    rest = np.setdiff1d(np.arange(len(labels)), support)
    if not len(rest):
        raise fault(
            "--shots", "leaves no row to predict.", shots, "Give more rows, or fewer shots."
        )
    codes = torch.tensor([classes.index(labels[row]) for row in support])
    logits = _logits(config, folder, part, found, (support, codes), classes, rest, home)
    predicted = logits.argmax(-1)
    known_rows = np.flatnonzero(labels[rest] != "")
    metrics: dict[str, float] = {}
    if len(known_rows):
        truth = torch.tensor([classes.index(labels[rest[i]]) for i in known_rows])
        metrics["accuracy"] = accuracy(logits[known_rows], truth).item()
        metrics["f1"] = macro_f1(logits[known_rows], truth).item()
    table = found.columns.iloc[rest].copy()
    table["prediction"] = [classes[code] for code in predicted.tolist()]
    table["probability"] = logits.softmax(-1).max(-1).values.tolist()
    write_text(out / "predictions.csv", table.to_csv(index_label="row"))
    write_text(out / "metrics.json", json.dumps(metrics, indent=2))
    return Adapted(out / "predictions.csv", len(classes), len(support), len(rest), metrics)


def _support(labels: np.ndarray, classes: list[str], shots: int, data: str) -> np.ndarray:
    if len(classes) < 2:
        raise fault("--data", "must have labelled rows of at least two classes.", data)
    rows = [np.flatnonzero(labels == name)[:shots] for name in classes]
    few = [f"{name} ({len(r)})" for name, r in zip(classes, rows, strict=True) if len(r) < shots]
    if few:
        rule = f"must have at least --shots = {shots} rows of every class."
        raise fault("--data", rule, ", ".join(few), "Give more rows, or fewer shots.")
    return np.concatenate(rows)


def _part(part: DatasetPart | TeacherPart, data: str, folder: Path) -> Component:
    """`data` seen as the model's own dataset saw its examples."""
    options: dict[str, Any] = part.options() | {"path": data}
    source = part.source
    if source == "glyphs":  # drawn, not read: new ones are images of the same size
        kept = {key: options[key] for key in ("path", "size", "head") if key in options}
        source, options = "images", {"size": 14} | kept
    return Component(name=source, options=_with_own_encoder(options, folder))


def _model(model: Component, folder: Path) -> Component:
    return replace(model, options=_with_own_encoder(model.options, folder))


def _with_own_encoder(options: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The options, with the encoder that the export brings along."""
    own = {"encoder": str(folder / "encoder")} if (folder / "encoder").exists() else {}
    return {key: own.get(key, value) if value else value for key, value in options.items()}


def _logits(
    config: Config,
    folder: Path,
    part: Component,
    found: Dataset,
    support: tuple[np.ndarray, Tensor],
    classes: list[str],
    rest: np.ndarray,
    home: Home,
) -> Tensor:
    plan = plan_of(config)
    recipe = replace(plan.recipe, model=_model(plan.recipe.model, folder))
    hyperparameters, weights = plan.space.decode({})
    rows, codes = support
    if not config.adapts:
        params = load_file(folder / "model.safetensors")
        seen, x = (found.inputs[rows], codes), found.inputs[rest]
        return classify(recipe, params, hyperparameters, seen, x)
    if config.teacher is not None and config.teacher.source not in TRAINED:
        teacher = _part(config.teacher, str(part.options["path"]), folder)
        recipe = replace(recipe, teacher=teacher)
    spec = replace(plan.spec(0, hyperparameters, weights, stage="final"), recipe=recipe)
    shown = (torch.from_numpy(rows), codes)
    with tempfile.TemporaryDirectory(prefix="fewtune-") as scratch:
        logits, _ = distil(
            spec, part, shown, tuple(classes), cache=home.cache, folder=Path(scratch)
        )
    return logits[rest]
