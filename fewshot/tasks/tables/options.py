"""The options of a table, checked against the columns of its file."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype

from fewshot.errors.inputs import ErrorDetail, InputError, did_you_mean, input_error
from fewshot.tasks.tables.cells import Missing, codes_of, is_missing, numbers_of
from fewshot.tasks.tables.columns import KnownMeans, TableColumns, fills, known_means, values_in
from fewshot.tasks.tables.splits import SplitRule, training_rows

# How features and numbers are scaled: by each support set, by the training tasks, or not at all.
SCALES = ("support", "train", "none")
_MOST_VALUES = 1000
_LISTED = ("features", "labels", "categories")
_MEANS_KEYS = ("of", "overall", "values")


def check_scale(scale: Any) -> None:
    """Raises InputError unless `scale` is one of `SCALES`, or the numbers of an export's scale."""
    if scale in SCALES if isinstance(scale, str) else isinstance(scale, Mapping):
        return
    remedy = "support: by each support set; train: by the training tasks; none: not at all."
    raise input_error("table.scale", f"must be {', '.join(SCALES)}.", scale, remedy)


def check_names(
    place: str,
    table: pd.DataFrame,
    *,
    features: Sequence[str] | None,
    labels: Sequence[str],
    categories: Sequence[str] | Mapping[str, Sequence[Any]] | None,
    missing: Missing | None,
    means: Mapping[str, Any] | None,
) -> None:
    """Raises InputError with all errors in the names of columns and in the missing codes."""
    given = dict(zip(_LISTED, (features, labels, categories), strict=True))
    for option, names in given.items():
        if isinstance(names, str) or not all(isinstance(name, str) for name in names or ()):
            rule = "must be a list of column names."
            raise input_error(f"table.{option}", rule, names, "Write it in brackets: [...].")
    details = _bad_codes(missing) + _bad_means(means)
    if details:
        raise InputError(details)
    details = _unknown_names(place, table, given, missing, means or {})
    for option, names in given.items():
        if twice := sorted({name for name in names or () if list(names or ()).count(name) > 1}):
            details.append(ErrorDetail(f"table.{option}", "must not name a column twice.", twice))
    for option, names in (("features", features), ("categories", categories), ("means", means)):
        if both := sorted(set(names or ()) & set(labels)):
            details.append(ErrorDetail(f"table.{option}", "must not be in `labels` too.", both))
    if both := sorted(set(categories or ()) & set(means or ())):
        details.append(ErrorDetail("table.means", "must not be in `categories` too.", both))
    if details:
        raise InputError(details)


def _unknown_names(
    place: str,
    table: pd.DataFrame,
    given: Mapping[str, Any],
    missing: Missing | None,
    means: Mapping[str, Any],
) -> list[ErrorDetail]:
    by_column = missing if isinstance(missing, Mapping) else ()
    named = {**given, "missing": by_column, "means": means}
    # A file that is only predicted need not have the column of which means are known.
    averaged = {name: what for name, what in means.items() if isinstance(what, str)}
    return [
        unknown_column(f"table.{option}", name, table, place)
        for option, names in named.items()
        for name in names or ()
        if name not in table
    ] + [
        unknown_column(f"table.means.{name}", of, table, place)
        for name, of in averaged.items()
        if of not in table
    ]


def unknown_column(path: str, name: str, table: pd.DataFrame, place: str) -> ErrorDetail:
    known = list(map(str, table.columns))
    remedy = f"{did_you_mean(str(name), known)}{place} has {', '.join(known)}."
    return ErrorDetail(path, "must name columns of the file.", name, remedy)


def _bad_codes(missing: Any) -> list[ErrorDetail]:
    remedy = "For example [-9], [] for empty cells alone, or {column: [-9]}."
    by_place = missing if isinstance(missing, Mapping) else {"": missing}
    if missing is None:
        return []
    return [
        ErrorDetail(
            f"table.missing.{column}".rstrip("."), "must be a list of codes.", codes, remedy
        )
        for column, codes in by_place.items()
        if not isinstance(codes, list | tuple)
        or not all(isinstance(code, str | int | float) for code in codes)
    ]


def _bad_means(means: Any) -> list[ErrorDetail]:
    if means is None:
        return []
    remedy = "For example {movie: rating}: the mean rating of each movie."
    if not isinstance(means, Mapping):
        return [ErrorDetail("table.means", "must be columns with a column each.", means, remedy)]
    return [
        ErrorDetail(f"table.means.{name}", "must be a column of numbers.", of, remedy)
        for name, of in means.items()
        if not isinstance(of, str) and not (isinstance(of, Mapping) and set(of) == {*_MEANS_KEYS})
    ]


def is_number_column(column: "pd.Series[Any]", missing: Missing | None) -> bool:
    """Whether all cells are numbers, but for missing ones, if there may be missing ones."""
    if missing is None:
        return pd.api.types.is_numeric_dtype(column)
    absent = is_missing(column, codes_of(missing, str(column.name)))
    return bool(np.isfinite(numbers_of(column, absent)[~absent]).all()) and not absent.all()


def columns_of(
    place: str,
    table: pd.DataFrame,
    *,
    features: Sequence[str] | None,
    labels: Sequence[str],
    categories: Sequence[str] | Mapping[str, Sequence[Any]] | None,
    missing: Missing | None,
    fill: Mapping[str, float] | None,
    means: Mapping[str, Any] | None,
    rule: SplitRule | None,
) -> TableColumns:
    """The features of a table whose names are checked; see `load` in `fewshot.tasks.table`.

    Raises InputError with all errors.
    """
    rows = training_rows(table, rule)
    special = {*(categories or ()), *(means or ())}
    if features is None:
        others = {*labels, *special, *(() if rule is None else (rule.by,))}
        numbers = tuple(
            str(name)
            for name in table
            if name not in others and is_number_column(table[name], missing)
        )
    else:
        numbers = tuple(name for name in features if name not in special)
    details = [
        ErrorDetail("table.features", "must be numeric columns.", name, _remedy(table[name]))
        for name in numbers
        if features is not None and not _numeric(table[name], missing)
    ]
    known, more = _known_values(table, categories, missing, rows)
    found, bad = _all_means(table, means, rule, rows)
    details += more + bad
    if not numbers and not special:
        columns = ", ".join(map(str, table.columns))
        details.append(ErrorDetail(place, "must have a numeric column as a feature.", columns))
    if details:
        raise InputError(details)
    if missing is not None and fill is None:
        fill = fills(table, numbers, missing, rows)
    fill = {name: value for name, value in (fill or {}).items() if name in numbers}
    return TableColumns(numbers, known, missing, fill, found)


def _numeric(column: "pd.Series[Any]", missing: Missing | None) -> bool:
    """Whether a named feature has no cell that is neither a number nor missing."""
    if missing is None:
        return pd.api.types.is_numeric_dtype(column)
    absent = is_missing(column, codes_of(missing, str(column.name)))
    return bool((~np.isnan(numbers_of(column, absent)[~absent])).all())


def _remedy(column: "pd.Series[Any]") -> str:
    texts = pd.to_numeric(column, errors="coerce").isna() & column.notna()
    if is_bool_dtype(column) or not texts.any():
        return ""
    example = column[texts].iloc[0]
    return (
        f"It has {example!r}. Name the column in `categories` if it has classes, or add this value "
        "to `missing` if it means that the number is missing."
    )


def _known_values(
    table: pd.DataFrame,
    categories: Sequence[str] | Mapping[str, Sequence[Any]] | None,
    missing: Missing | None,
    rows: "np.ndarray[Any, np.dtype[np.bool_]]",
) -> tuple[dict[str, tuple[str, ...]], list[ErrorDetail]]:
    """The known values of each column of categories: those listed, or those of the rows."""
    found, details = {}, []
    for name in categories or ():
        if isinstance(categories, Mapping):
            listed = categories[name]
            if isinstance(listed, str) or not isinstance(listed, Iterable) or not list(listed):
                rule = "must be a list of values."
                details.append(ErrorDetail(f"table.categories.{name}", rule, listed))
                continue
            values = tuple(dict.fromkeys("" if v is None else str(v).strip() for v in listed))
        else:
            values = values_in(table[name], missing, rows)
        if len(values) > _MOST_VALUES:
            rule = f"must have at most {_MOST_VALUES} values: each becomes a feature."
            remedy = "List the values that matter: {column: [value, ..]}."
            details.append(ErrorDetail(f"table.categories.{name}", rule, len(values), remedy))
        found[name] = values
    return found, details


def _all_means(
    table: pd.DataFrame,
    means: Mapping[str, Any] | None,
    rule: SplitRule | None,
    rows: "np.ndarray[Any, np.dtype[np.bool_]]",
) -> tuple[dict[str, KnownMeans], list[ErrorDetail]]:
    found, details = {}, []
    for name, what in (means or {}).items():
        of = what if isinstance(what, str) else str(what["of"])
        if rule is not None:
            numbers = pd.to_numeric(table[of], errors="coerce")[rows]
            if not numbers.notna().any() or not np.isfinite(numbers.dropna()).all():
                text = "must be a column of finite numbers."
                details.append(ErrorDetail(f"table.means.{name}", text, of))
                continue
            found[name] = known_means(table, name, of, rows)
        elif isinstance(what, Mapping):
            values = {str(key): (float(a), float(n)) for key, (a, n) in what["values"].items()}
            found[name] = KnownMeans(of, float(what["overall"]), values)
        else:
            text = "needs `split`: means must come from training groups alone."
            remedy = "Add split: COLUMN, the column with the groups that are split."
            details.append(ErrorDetail(f"table.means.{name}", text, of, remedy))
    return found, details


def fixed_options(columns: TableColumns) -> dict[str, Any]:
    """The options with which another file is read as this one was."""
    fixed: dict[str, Any] = {"features": list(columns.names)}
    if columns.categories:
        fixed["categories"] = {name: list(known) for name, known in columns.categories.items()}
    if columns.missing is not None:
        fixed["fill"] = dict(columns.fill)
    if columns.means:
        fixed["means"] = {
            name: {
                "of": means.of,
                "overall": means.overall,
                "values": {key: list(pair) for key, pair in means.values.items()},
            }
            for name, means in columns.means.items()
        }
    assert all(math.isfinite(value) for value in columns.fill.values()), "medians are finite"
    return fixed
