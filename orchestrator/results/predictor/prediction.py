"""Predicts the examples of a file, and writes the predictions beside them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

import numpy as np
import pandas as pd

from fewshot.errors.inputs import ErrorDetail, InputError
from fewshot.tasks.files import write_atomically
from orchestrator.results.predictor.evaluation import Measured, class_measures, number_measures
from orchestrator.results.predictor.predictor import Predictor
from orchestrator.results.predictor.readers import Examples

_SHOWN = 8
PROBABILITY = "p_"  # prefix of the columns of class probabilities


def _csv(table: pd.DataFrame, file: BinaryIO) -> None:
    table.to_csv(file, index=False)


def _jsonl(table: pd.DataFrame, file: BinaryIO) -> None:
    table.to_json(file, orient="records", lines=True, force_ascii=False)


def _parquet(table: pd.DataFrame, file: BinaryIO) -> None:
    table.to_parquet(file, index=False)


_WRITERS: Mapping[str, Callable[[pd.DataFrame, BinaryIO], None]] = MappingProxyType(
    {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
)


@dataclass(frozen=True)
class Predictions:
    """The file of predictions; measures is empty unless they were asked for."""

    path: Path
    predicted: int
    measures: Mapping[str, Measured]
    measured: int  # examples with a label


def predict_file(
    predictor: Predictor,
    data: str,
    out: Path,
    *,
    evaluate: bool = False,
    label: str | None = None,
    started: Callable[[int], Callable[[int], None]] = lambda n: lambda done: None,
) -> Predictions:
    """Write the examples of `data` with their predictions to `out`.

    Columns: those of the data, `prediction`, and for classes `probability` (of the predicted class)
    and `p_CLASS` for each class.

    evaluate: measure the predictions by the column `label`, by default the one that the model
    learned. Rows with an empty label are not measured.
    started: called with the number of examples; what it returns is called with the numbers done.

    Raises InputError with all errors before anything is written.
    """
    details: list[ErrorDetail] = []
    if out.suffix not in _WRITERS:
        rule = f"must end in {', '.join(_WRITERS)}."
        details.append(ErrorDetail("--out", rule, str(out)))
    elif out.is_dir():
        details.append(ErrorDetail("--out", "must be a file, not a folder.", str(out)))
    truth = None
    try:
        examples = predictor.examples(data)
        if evaluate:
            truth = _truth(predictor, examples, label or predictor.parts.label)
    except InputError as error:
        details += error.details
    if details:
        raise InputError(details)
    outputs = predictor.outputs(examples, advance=started(len(examples)))
    predicted = predictor.labels(outputs)
    table = examples.rows.copy()
    table["prediction"] = predicted
    if predictor.classes:
        probabilities = predictor.probabilities(outputs)
        table["probability"] = probabilities.max(-1)
        names = [f"{PROBABILITY}{name}" for name in predictor.classes]
        table = table.drop(columns=[name for name in names if name in table])
        table = table.join(pd.DataFrame(probabilities, columns=names, index=table.index))
    write_atomically(out, partial(_WRITERS[out.suffix], table))
    measures: dict[str, Measured] = {}
    known = np.zeros(0, dtype=np.int64)
    if truth is not None:
        known = np.flatnonzero(pd.notna(truth))
        measure = class_measures if predictor.classes else number_measures
        measures = measure(truth[known], predicted[known])
    return Predictions(out, len(table), measures, len(known))


def _truth(predictor: Predictor, examples: Examples, label: str) -> "np.ndarray[Any, Any]":
    """The known labels (n,): classes, or numbers; None or NaN where there is none."""
    if label not in examples.rows:
        known = ", ".join(map(str, examples.rows.columns)) or "no columns"
        rule = "needs the labels: the data must have the column that the model learned."
        remedy = f"They have {known}. Name another column with --label."
        raise InputError([ErrorDetail("--evaluate", rule, label, remedy)])
    column = examples.rows[label]
    found = _classes(predictor, column) if predictor.classes else _numbers(column)
    if not pd.notna(found).any():
        raise InputError([ErrorDetail(f"--data:{label}", "must have a label in some row.")])
    return found


def _classes(predictor: Predictor, column: "pd.Series[Any]") -> "np.ndarray[Any, Any]":
    texts = column.fillna("").astype(str)
    unknown = sorted(set(texts) - set(predictor.classes) - {""})
    if unknown:
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        names = ", ".join(unknown[:_SHOWN]) + more
        rule = "must have only classes that the model knows, or nothing."
        remedy = "Remove these rows, or adapt the model with examples of these classes."
        raise InputError([ErrorDetail(f"--data:{column.name}", rule, names, remedy)])
    return np.array([text or None for text in texts], dtype=object)


def _numbers(column: "pd.Series[Any]") -> "np.ndarray[Any, Any]":
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(float)
    blank = (column.isna() | (column.astype(str).str.strip() == "")).to_numpy()
    wrong = ~np.isfinite(numbers) & ~blank
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        rule = "must have a finite number or nothing in every row."
        place = f"--data:{column.name}"
        raise InputError([ErrorDetail(place, rule, f"{column.iloc[row]} in row {row}")])
    return np.where(blank, np.nan, numbers)
