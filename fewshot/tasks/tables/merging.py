"""Merges values of a column of a table, such as degrees of a disease, into one class."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from fewshot.errors.inputs import ErrorDetail, InputError, did_you_mean
from fewshot.tasks.tables.cells import EMPTY, texts_of

_PATH = "table.merge"
_REMEDY = "For example {num: {ill: [1, 2], well: [0]}}."


def with_merged(table: pd.DataFrame, merge: Mapping[str, Any], place: str) -> pd.DataFrame:
    """The table with other values in some columns; values that are not named are kept.

    merge: for each column the new values, each with the list of old values that it replaces.
    place: the file, for messages.

    Raises InputError with all errors in `merge`.
    """
    details, merged = [], {}
    for name, new in merge.items() if isinstance(merge, Mapping) else [("", merge)]:
        path = f"{_PATH}.{name}".rstrip(".")
        shaped = isinstance(new, Mapping) and all(isinstance(v, list | tuple) for v in new.values())
        if not shaped or not new:
            rule = "must be new values, each with a list of old values."
            details.append(ErrorDetail(path, rule, new, _REMEDY))
        elif name not in table:
            known = list(map(str, table.columns))
            remedy = f"{did_you_mean(str(name), known)}{place} has {', '.join(known)}."
            details.append(ErrorDetail(path, "must name a column of the file.", None, remedy))
        else:
            merged[name], more = _merged(table[name], new, path)
            details += more
    if details:
        raise InputError(details)
    return table.assign(**merged)


def _merged(
    column: "pd.Series[Any]", new: Mapping[Any, Any], path: str
) -> tuple["pd.Series[Any]", list[ErrorDetail]]:
    texts = texts_of(column)
    pairs = [
        (old, str(name))
        for name, values in new.items()
        for old in texts_of(pd.Series(list(values), dtype=object))
    ]
    olds = [old for old, _ in pairs]
    twice = sorted({old for old in olds if olds.count(old) > 1})
    if twice:
        return column, [ErrorDetail(path, "must not name an old value twice.", twice)]
    replaced = texts.map(dict(pairs))
    kept = texts.mask(texts == EMPTY)  # an empty cell stays empty
    return replaced.where(replaced.notna(), kept), []
