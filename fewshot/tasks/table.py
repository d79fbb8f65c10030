"""Tables whose numeric columns are the features of a model; other columns can be labels.

The features keep the units of the file. They are scaled later, by each support set
(`fewshot.learners.scaled`).
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import torch
from pandas.api.types import is_numeric_dtype

from fewshot.errors.inputs import ErrorDetail, InputError, input_error
from fewshot.tasks.base import Dataset
from fewshot.tasks.files import csv_columns, distinct_columns, existing, parquet_columns

_SHOWN = 8


def _csv(path: Path) -> pd.DataFrame:
    distinct_columns(csv_columns(path), path)
    return pd.read_csv(path)


def _parquet(path: Path) -> pd.DataFrame:
    distinct_columns(parquet_columns(path), path)
    return pd.read_parquet(path)


def _jsonl(path: Path) -> pd.DataFrame:
    return pd.read_json(path, lines=True, convert_dates=False)


_READERS: Mapping[str, Callable[[Path], pd.DataFrame]] = MappingProxyType(
    {
        ".csv": _csv,
        ".csv.gz": _csv,
        ".jsonl": _jsonl,
        ".jsonl.gz": _jsonl,
        ".parquet": _parquet,
    }
)


def load(
    *,
    path: str,
    cache: Path,
    features: Sequence[str] | None = None,
    labels: Sequence[str] = (),
) -> Dataset:
    """The numeric features of a table, with all columns of the table.

    inputs: (n, d) float32, the columns that `features` names, in this order. By default all numeric
        columns except those in `labels`, in the order of the file. True becomes 1, false 0.

    path: a .csv, .jsonl (both also with .gz) or .parquet file; `~` and environment variables are
        expanded.

    Raises InputError if the file or a column is missing, or if a feature is not a finite number.
    """
    del cache  # reading is fast enough without one
    place = existing(path, "table.path")
    table = _read(place)
    numeric = [name for name in map(str, table) if is_numeric_dtype(table[name])]
    _check(place, table, numeric, features, labels)
    chosen = tuple(
        [name for name in numeric if name not in labels] if features is None else features
    )
    if not chosen:
        known = ", ".join(map(str, table.columns))
        raise input_error(str(place), "must have a numeric column as a feature.", known)
    with np.errstate(over="ignore"):  # numbers that overflow become infinite and are refused below
        inputs = table[list(chosen)].to_numpy(np.float32, na_value=np.nan, copy=True)
    details = [
        ErrorDetail(
            f"{place}:{name}",
            "must have a finite number in every row; rows are counted from 0, without the header.",
            f"none in {rows_of(~np.isfinite(inputs[:, i]))}",
            "Fill them in, remove the rows, or remove the column from `features`.",
        )
        for i, name in enumerate(chosen)
        if not np.isfinite(inputs[:, i]).all()
    ]
    if details:
        raise InputError(details)
    return Dataset(torch.from_numpy(inputs), table, chosen)


def rows_of(bad: "np.ndarray[Any, np.dtype[np.bool_]]") -> str:
    """The row numbers where `bad` (n,) is true, as text."""
    rows = np.flatnonzero(bad)
    more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
    return f"row{'s' * (len(rows) > 1)} {', '.join(map(str, rows[:_SHOWN]))}{more}"


def _read(place: Path) -> pd.DataFrame:
    reader = next((_READERS[end] for end in _READERS if place.name.endswith(end)), None)
    if reader is None or place.is_dir():
        raise input_error(
            "table.path", f"must be a file that ends in {', '.join(_READERS)}.", str(place)
        )
    try:
        table = reader(place)
    except (OSError, ValueError, EOFError, pyarrow.ArrowException) as error:
        raise input_error(str(place), f"can't be read: {error}") from error
    if table.empty:
        raise input_error(str(place), "must have at least one row.")
    return table.reset_index(drop=True).rename(columns=str)


def _check(
    place: Path,
    table: pd.DataFrame,
    numeric: Sequence[str],
    features: Sequence[str] | None,
    labels: Sequence[str],
) -> None:
    """Raises InputError for named columns that are missing, named twice, or not numeric."""
    known, details = list(table.columns), []
    for option, names in (("features", features or ()), ("labels", labels)):
        if isinstance(names, str) or not all(isinstance(name, str) for name in names):
            rule = "must be a list of column names."
            raise input_error(f"table.{option}", rule, names, "Write it in brackets: [...].")
        details += [
            ErrorDetail(
                f"table.{option}",
                "must name columns of the file.",
                name,
                f"{place} has {', '.join(known)}.",
            )
            for name in names
            if name not in known
        ]
    details += [
        ErrorDetail("table.features", "must be numeric columns.", name)
        for name in features or ()
        if name in known and name not in numeric
    ]
    twice = sorted({name for name in features or () if list(features or ()).count(name) > 1})
    if twice:
        details.append(ErrorDetail("table.features", "must not name a column twice.", twice))
    both = sorted(set(features or ()) & set(labels))
    if both:
        details.append(ErrorDetail("table.features", "must not be in `labels` too.", both))
    if details:
        raise InputError(details)
