"""Adaptation of an exported model to a new task that is given as a table.

The model learns from some labelled rows, then predicts the labels of the other rows. The labels are
classes or numbers, whichever the model was trained for; classes if it was trained for both. The
adapted model is kept as a predictor (`orchestrator.results.predictor`).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fewshot.errors.inputs import InputError, input_error
from fewshot.metrics import accuracy, expected_calibration_error, macro_f1
from fewshot.tasks.base import Dataset
from fewshot.tasks.datasets import load_dataset
from fewshot.tasks.files import write_text
from orchestrator.config import loading as configs
from orchestrator.config.paths import with_absolute_export_paths
from orchestrator.config.sections.config import Config
from orchestrator.config.sections.tasks import TaskSection
from orchestrator.record.home import Home
from orchestrator.results.new_tasks.new_model import NewModel, learn, meta_learned, new_part
from orchestrator.results.predictor.card import predictor_card
from orchestrator.results.predictor.folder import PredictorParts, data_of, save_predictor
from trials.contract import Component

_LABEL = "label"  # the column to predict if the model's own column is missing
# The option of the command line for a config key of a dataset, without the name of its source.
_OPTIONS = {"labels": "--label", "path": "--data", "text": "--text"}


@dataclass(frozen=True)
class Adapted:
    """The predictor, its predictions, and their metrics on the rows whose labels are known.

    unlike: a warning if the new task is further from all training tasks than these are from each
    other; else empty.
    """

    predictions: Path | None  # in the folder of the predictor; None if it learned from all rows
    classes: int  # 0 if the labels are numbers
    support: int  # rows learned from
    predicted: int  # rows predicted
    metrics: dict[str, float]  # empty if no predicted row has a known label
    unlike: str = ""


def adapt(
    folder: Path,
    data: str,
    *,
    shots: int,
    label: str | None = None,
    out: Path,
    home: Home,
    trust_code: bool = False,
    text: str | None = None,
) -> Adapted:
    """Learn from the first `shots` labelled rows (of each class) in `data`; predict the others.

    folder: an export. data: of the same kind as the training data; for a model trained on
    functions, a table of points and their values. A row with an empty label is only predicted.
    label: the column to predict; by default that of the model's own tasks, or `label` if the data
    lack it. text: for images with texts, the table with the titles, see `new_part`.
    Raises InputError if the data does not fit the model, or if the export names code and
    `trust_code` is false.
    """
    if not (folder / "model.safetensors").exists():
        rule = "must be a folder that `fewtune export` wrote."
        raise input_error("DIR", rule, str(folder))
    path = folder / "config.yaml"
    config = configs.few_shot(configs.load_config(path, foreign=True, trust_code=trust_code))
    config = with_absolute_export_paths(config, folder)
    if "world" in config.kinds:
        rule = "can't be learned by a policy for worlds."
        raise input_error("--data", rule, data, "Use `--env` with an environment of gymnasium.")
    like = min(config.tasks.validation, key=lambda task: task.regresses)
    part = Component(name="table", options={"path": data})
    if isinstance(like, TaskSection):
        part = new_part(config.datasets[like.dataset], data, folder, text)
    own = like.label if isinstance(like, TaskSection) else _LABEL
    if like.regresses and part.name == "table":
        others = [name for name in part.options.get("labels", ()) if name != (label or own)]
        part = replace(part, options={**part.options, "labels": [*others, label or own]})
    dataset = _load(part, home)
    label = label or (own if own in dataset.columns else _LABEL)
    if label not in dataset.columns:
        known = ", ".join(map(str, dataset.columns.columns))
        raise input_error("--label", f"must be a column of {data}: {known}.", label)
    if like.regresses:
        return _adapt_regression(config, folder, part, dataset, label, shots, out)
    return _adapt_classification(config, folder, part, dataset, label, shots, out, home)


def _load(part: Component, home: Home) -> Dataset:
    """The dataset; raises InputError, with the command-line options as paths."""
    try:
        return load_dataset(part.name, part.options, home.cache)
    except InputError as error:  # name the command-line options instead of config keys
        keys = [detail.path.removeprefix(f"{part.name}.") for detail in error.details]
        details = [
            replace(detail, path=_OPTIONS.get(key, detail.path))
            for detail, key in zip(error.details, keys, strict=True)
        ]
        raise InputError(details) from error


def _adapt_classification(
    config: Config,
    folder: Path,
    part: Component,
    dataset: Dataset,
    label: str,
    shots: int,
    out: Path,
    home: Home,
) -> Adapted:
    labels = dataset.columns[label].fillna("").astype(str).to_numpy()
    classes = sorted(set(labels) - {""})
    _check_classes(config, folder, classes)
    support = _support(labels, classes, shots, str(part.options["path"]))
    rest = np.setdiff1d(np.arange(len(labels)), support)
    codes = torch.tensor([classes.index(labels[row]) for row in support])
    made = learn(config, folder, part, dataset, (support, codes), classes, home)
    parts = _parts(made, part, dataset, label, tuple(classes), len(support), out)
    if not len(rest):
        return _kept(out, parts, made)
    table, metrics = _predicted_classes(made, dataset, rest, labels[rest], classes)
    return _kept(out, parts, made, table, metrics)


def _predicted_classes(
    made: NewModel, dataset: Dataset, rows: np.ndarray, labels: np.ndarray, classes: list[str]
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Rows with their predictions, and metrics; labels: of the rows, empty where not known."""
    logits = made.scale * made.model.outputs(dataset.as_queries()[rows])
    known_rows = np.flatnonzero(labels != "")
    metrics: dict[str, float] = {}
    if len(known_rows):
        truth = torch.tensor([classes.index(labels[i]) for i in known_rows])
        metrics = _class_metrics(logits[known_rows], truth)
    table = dataset.columns.iloc[rows].copy()
    table["prediction"] = [classes[code] for code in logits.argmax(-1).tolist()]
    table["probability"] = logits.softmax(-1).max(-1).values.tolist()
    return table, metrics


def _check_classes(config: Config, folder: Path, classes: list[str]) -> None:
    """Raises InputError if the model knows its classes by their order, and these are others."""
    place = folder / "labels.json"
    if not config.episodes.fixed_classes or not place.exists():
        return
    known = json.loads(place.read_text(encoding="utf-8"))
    if classes != known:
        rule = f"must have the classes that the model was trained on: {', '.join(known)}."
        remedy = "Name them in the same way."
        raise input_error("--data", rule, ", ".join(classes), remedy)


def _class_metrics(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Metrics of logits (n, c) on integer labels (n,)."""
    return {
        "accuracy": accuracy(logits, labels).item(),
        "f1": macro_f1(logits, labels).item(),
        "ece": expected_calibration_error(logits.softmax(-1), labels),
    }


def _adapt_regression(
    config: Config,
    folder: Path,
    part: Component,
    dataset: Dataset,
    label: str,
    shots: int,
    out: Path,
) -> Adapted:
    column = dataset.columns[label]
    values = pd.to_numeric(column, errors="coerce").to_numpy(float)
    wrong = np.flatnonzero(~np.isfinite(values) & column.notna().to_numpy())
    if len(wrong):
        rule = "must have a finite number or an empty cell in every row."
        raise input_error("--label", rule, f"{column.iloc[wrong[0]]} in row {wrong[0]}")
    known = np.flatnonzero(np.isfinite(values))
    support, rest = known[:shots], np.setdiff1d(np.arange(len(values)), known[:shots])
    if len(support) < shots:
        rule = f"must have --shots = {shots} rows with a number."
        raise input_error("--data", rule, f"{len(known)} of {len(values)} rows have a number")
    numbers = torch.tensor(values[support], dtype=torch.float32)[:, None]
    made = meta_learned(config, folder, (dataset.inputs[support], numbers), regresses=True)
    parts = _parts(made, part, dataset, label, (), len(support), out)
    if not len(rest):
        return _kept(out, parts, made)
    table, metrics = _predicted_numbers(made, dataset, rest, values[rest])
    return _kept(out, parts, made, table, metrics)


def _predicted_numbers(
    made: NewModel, dataset: Dataset, rows: np.ndarray, truth: np.ndarray
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Rows with their predictions, and metrics; truth: of the rows, NaN where not known."""
    predicted = made.model.outputs(dataset.inputs[rows])[:, 0]
    scored = np.isfinite(truth)
    metrics: dict[str, float] = {}
    if scored.any():
        metrics["mse"] = float(np.square(predicted.numpy() - truth)[scored].mean())
    if truth[scored].size and (spread := truth[scored].var()) > 0:
        metrics["skill"] = 1 - metrics["mse"] / float(spread)
    table = dataset.columns.iloc[rows].copy()
    table["prediction"] = predicted.tolist()
    return table, metrics


def _parts(
    made: NewModel,
    part: Component,
    dataset: Dataset,
    label: str,
    classes: tuple[str, ...],
    n_support: int,
    out: Path,
) -> PredictorParts:
    return PredictorParts(
        name=out.absolute().name,
        recipe=made.recipe,
        hyperparameters=made.hyperparameters,
        data=data_of(part, dataset),
        features=tuple(dataset.inputs.shape[1:]),
        ids=not dataset.inputs.is_floating_point(),
        classes=classes,
        label=label,
        logit_scale=made.scale,
        examples=n_support,
        model=made.model,
    )


def _kept(
    out: Path,
    parts: PredictorParts,
    made: NewModel,
    table: pd.DataFrame | None = None,
    metrics: Mapping[str, float] = MappingProxyType({}),
) -> Adapted:
    """Write the predictor, and the predictions if there are any."""
    save_predictor(parts, out)
    write_text(out / "README.md", predictor_card(parts, metrics))
    predictions, measures = out / "predictions.csv", out / "metrics.json"
    if table is None:  # an earlier adaptation may have left some
        predictions.unlink(missing_ok=True)
        measures.unlink(missing_ok=True)
    else:
        write_text(predictions, table.to_csv(index_label="row"))
        write_text(measures, json.dumps(metrics, indent=2))
    predicted = 0 if table is None else len(table)
    sizes = len(parts.classes), parts.examples, predicted
    written = None if table is None else predictions
    return Adapted(written, *sizes, dict(metrics), made.unlike)


def _support(labels: np.ndarray, classes: list[str], shots: int, data: str) -> np.ndarray:
    if len(classes) < 2:
        raise input_error("--data", "must have labelled rows of at least two classes.", data)
    rows = [np.flatnonzero(labels == name)[:shots] for name in classes]
    few = [f"{name} ({len(r)})" for name, r in zip(classes, rows, strict=True) if len(r) < shots]
    if few:
        rule = f"must have at least --shots = {shots} rows of every class."
        raise input_error("--data", rule, ", ".join(few), "Give more rows or fewer shots.")
    return np.concatenate(rows)
