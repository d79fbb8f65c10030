"""The cells of a table as texts and numbers, with codes that mean a missing value."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

EMPTY = ""  # the text of a missing value

# Codes of missing values: of all columns, or by column.
Missing = Sequence[str | float] | Mapping[str, Sequence[str | float]]


def texts_of(column: "pd.Series[Any]") -> "pd.Series[str]":
    """The cells as texts, without spaces around them; whole numbers have no decimal point.

    So a column of whole numbers has the same texts if missing values have made it one of floats.
    """
    return column.map(_text).astype(object)


def _text(cell: Any) -> str:
    if cell is None or cell is pd.NA or cell is pd.NaT or cell != cell:
        return EMPTY
    if isinstance(cell, float | np.floating) and float(cell).is_integer():
        return str(int(cell))
    return str(cell).strip()


def codes_of(missing: Missing | None, column: str) -> frozenset[str]:
    """The texts that mean a missing value in the column, besides empty cells."""
    if missing is None:
        return frozenset()
    codes = missing.get(column, ()) if isinstance(missing, Mapping) else missing
    return frozenset(_text(code) for code in codes)


def is_missing(column: "pd.Series[Any]", codes: Iterable[str]) -> npt.NDArray[np.bool_]:
    """A mask (n,) of the cells that are empty or one of the codes."""
    found = column.isna()
    if codes := list(codes):
        plain = is_numeric_dtype(column) and not is_bool_dtype(column)
        numbers = pd.to_numeric(pd.Series(codes, dtype=object), errors="coerce").dropna()
        same = column.isin(numbers.tolist()) if plain else texts_of(column).isin(codes)
        found = found | same
    if not is_numeric_dtype(column):
        found = found | (texts_of(column) == EMPTY)
    return np.asarray(found, dtype=bool)


def numbers_of(column: "pd.Series[Any]", missing: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """The cells as numbers; NaN where they are missing or no numbers. True is 1, false is 0."""
    kept = column.mask(missing) if missing.any() else column
    numbers = pd.to_numeric(kept, errors="coerce")
    return np.asarray(numbers.astype("Float64").to_numpy(np.float64, na_value=np.nan))
