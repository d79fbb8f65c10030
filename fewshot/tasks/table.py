"""Tables whose columns are the features of a model; other columns can be labels.

The features keep the units of the file. They are scaled later (`fewshot.learners.scaled`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import torch

from fewshot.errors.inputs import ErrorDetail, InputError, input_error
from fewshot.tasks.base import Dataset
from fewshot.tasks.files import csv_columns, distinct_columns, existing, parquet_columns
from fewshot.tasks.tables.cells import Missing, texts_of
from fewshot.tasks.tables.columns import TableColumns
from fewshot.tasks.tables.merging import with_merged
from fewshot.tasks.tables.options import check_names, check_scale, columns_of, fixed_options
from fewshot.tasks.tables.splits import split_rule, training_rows, with_split

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
    categories: Sequence[str] | Mapping[str, Sequence[Any]] | None = None,
    missing: Missing | None = None,
    fill: Mapping[str, float] | None = None,
    means: Mapping[str, Any] | None = None,
    merge: Mapping[str, Any] | None = None,
    split: str | Mapping[str, Any] | None = None,
    scale: str | Mapping[str, Any] = "support",
) -> Dataset:
    """The features of a table, with all columns of the table.

    inputs: (n, d) float32, see `fewshot.tasks.tables.columns`. Without `categories`, `missing` and
        `means` they are the columns that `features` names, in this order.

    path: a .csv, .jsonl (both also with .gz) or .parquet file; `~` and environment variables are
        expanded.
    features: by default all numeric columns except those in `labels` and the groups of `split`, in
        the order of the file, and the columns in `categories` and `means`. True becomes 1, false 0.
    categories: the columns with classes, or for each of them the values that become features.
    missing: codes of missing values, of all columns or by column, besides empty cells.
    fill: the replacements of missing numbers; by default the medians of the training rows.
    means: for each column, such as a movie, the column of numbers, such as a rating, whose mean
        over the rows of training groups is a feature. A training row leaves out its own group.
    merge: for columns, new values with those that they replace: {num: {ill: [1, 2], well: [0]}}.
    split: the column with the groups, such as users, that are split into training, validation and
        test; or {by: column, validation: .., test: ..} with shares or lists of groups. The table
        gets a column `split`. Medians, values and means are then those of the training groups.
    scale: how a learner scales features and numbers: by each support set, by the training tasks
        (`train`), or not at all (`none`). See `fewshot.learners.scaled`.

    Raises InputError if the file or a column is missing, or if a feature is not a finite number.
    """
    del cache  # reading is fast enough without one
    place = existing(path, "table.path")
    return from_frame(
        _read(place),
        str(place),
        features=features,
        labels=labels,
        categories=categories,
        missing=missing,
        fill=fill,
        means=means,
        merge=merge,
        split=split,
        scale=scale,
    )


def from_frame(
    table: pd.DataFrame,
    place: str,
    *,
    features: Sequence[str] | None = None,
    labels: Sequence[str] = (),
    categories: Sequence[str] | Mapping[str, Sequence[Any]] | None = None,
    missing: Missing | None = None,
    fill: Mapping[str, float] | None = None,
    means: Mapping[str, Any] | None = None,
    merge: Mapping[str, Any] | None = None,
    split: str | Mapping[str, Any] | None = None,
    scale: str | Mapping[str, Any] = "support",
) -> Dataset:
    """The features of a table in memory, with a plain RangeIndex; the options are those of `load`.

    place: what the table is called in messages.

    Raises InputError with the errors of all options.
    """
    details: list[ErrorDetail] = []
    with _kept(details):
        check_scale(scale)
    rule = None
    with _kept(details):
        rule = None if split is None else split_rule(split)
    with _kept(details):
        table = table if merge is None else with_merged(table, merge, place)
    with _kept(details):
        table = table if rule is None else with_split(table, rule, place)
    names: dict[str, Any] = {
        "features": features,
        "labels": labels,
        "categories": categories,
        "missing": missing,
        "means": means,
    }
    with _kept(details):
        check_names(place, table, **names)
    if details:
        raise InputError(details)
    columns = columns_of(place, table, **names, fill=fill, rule=rule)
    groups = None
    if rule is not None and columns.means:
        groups = texts_of(table[rule.by]).where(training_rows(table, rule))
    inputs = columns.encode(table, groups)
    check_finite(place, columns, inputs)
    return Dataset(torch.from_numpy(inputs), table, columns.names, fixed=fixed_options(columns))


@contextmanager
def _kept(details: list[ErrorDetail]) -> Iterator[None]:
    """Adds the errors of an InputError to `details` instead of raising it."""
    try:
        yield
    except InputError as error:
        details += error.details


def check_finite(
    place: str, columns: TableColumns, inputs: "np.ndarray[Any, np.dtype[np.float32]]"
) -> None:
    """Raises InputError that lists the columns of numbers that are not finite in all rows."""
    remedy = "Fill them in, remove the rows, or remove the column from `features`."
    if columns.missing is None:
        remedy += " Or set `missing: []` to read empty cells as missing numbers."
    elif columns.fill:
        remedy += f" Only {', '.join(columns.fill)} had missing numbers before."
    details = [
        ErrorDetail(
            f"{place}:{name}",
            "must have a finite number in every row; rows are counted from 0, without the header.",
            f"none in {rows_of(~np.isfinite(inputs[:, i]))}",
            remedy,
        )
        for i, name in enumerate(columns.numbers)
        if not np.isfinite(inputs[:, i]).all()
    ]
    if details:
        raise InputError(details)


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
