"""How the columns of a table become the features of a model.

The features of a row are, in this order:

- its numbers;
- for each column of categories one feature for each known value, and one for all other values. An
  empty cell is a value too;
- for each column whose cells have known means, the mean of the cell's value and log(1 + n), where n
  is the number of training rows with this value;
- for each column of numbers with missing values, an indicator: 1 if the number is missing. The
  number itself is replaced by the median of the training rows.

What is learned from the rows (values, medians, means) is learned from the training rows alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fewshot.tasks.tables.cells import Missing, codes_of, is_missing, numbers_of, texts_of

# A mean of n numbers counts as n / (n + this) of its own mean, and the rest of the overall mean.
_PRIOR_ROWS = 5.0


@dataclass(frozen=True)
class KnownMeans:
    """The mean of a column of numbers for each value of another column.

    of: the column of numbers. overall: its mean. values: for each value, the sum of the numbers
        minus n times `overall`, and their number n.
    """

    of: str
    overall: float
    values: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class TableColumns:
    """The columns that are features, and what was learned about them; see the module.

    numbers: the columns of numbers. categories: for each column its known values. fill: the
    replacement of a missing number, for each column that may have missing numbers.
    """

    numbers: tuple[str, ...]
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    missing: Missing | None = None
    fill: Mapping[str, float] = field(default_factory=dict)
    means: Mapping[str, KnownMeans] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """All columns that are read."""
        return (*self.numbers, *self.categories, *self.means)

    @property
    def width(self) -> int:
        """The number of features of a row."""
        levels = sum(len(known) + 1 for known in self.categories.values())
        return len(self.numbers) + levels + 2 * len(self.means) + len(self.fill)

    def encode(
        self, table: pd.DataFrame, groups: "pd.Series[str] | None" = None
    ) -> npt.NDArray[np.float32]:
        """The features (n, width) of the rows; not finite where a number is neither known nor
        replaced.

        groups: (n,), for training rows: the means of a row leave out the rows of its group.
        """
        missing = {
            name: is_missing(table[name], codes_of(self.missing, name)) for name in self.numbers
        }
        parts = [numbers_of(table[name], missing[name]) for name in self.numbers]
        for i, name in enumerate(self.numbers):
            if name in self.fill:
                parts[i] = np.where(missing[name], self.fill[name], parts[i])
        for name, known in self.categories.items():
            parts += one_hot(_values(table[name], codes_of(self.missing, name)), known)
        for name, means in self.means.items():
            parts += _mean_features(table, name, means, groups)
        parts += [missing[name].astype(float) for name in self.fill]
        with np.errstate(over="ignore"):  # numbers that overflow become infinite and are refused
            return np.stack(parts, 1).astype(np.float32)


def one_hot(values: "pd.Series[str]", known: Sequence[str]) -> list[npt.NDArray[np.float64]]:
    """One indicator (n,) for each known value, and one for all other values."""
    place = {value: code for code, value in enumerate(known)}
    codes = values.map(place).fillna(-1).to_numpy(float)
    return [(codes == code).astype(float) for code in (*range(len(known)), -1)]


def _values(column: "pd.Series[Any]", codes: frozenset[str]) -> "pd.Series[str]":
    """The texts of the cells; a missing cell is the empty text."""
    texts = texts_of(column)
    return texts.mask(texts.isin(codes), "") if codes else texts


def values_in(
    column: "pd.Series[Any]", missing: Missing | None, rows: npt.NDArray[np.bool_]
) -> tuple[str, ...]:
    """The values of a column of categories in the given rows, ascending."""
    found = set(_values(column[rows], codes_of(missing, str(column.name))))
    return tuple(sorted(found, key=lambda text: (len(text), text)))


def fills(
    table: pd.DataFrame, numbers: Sequence[str], missing: Missing, rows: npt.NDArray[np.bool_]
) -> dict[str, float]:
    """The median over the given rows of each column that has missing numbers in any row."""
    found = {}
    for name in numbers:
        absent = is_missing(table[name], codes_of(missing, name))
        if absent.any():
            known = numbers_of(table[name], absent)[rows & ~absent]
            found[name] = float(np.median(known)) if len(known) else 0.0
    return found


def known_means(table: pd.DataFrame, name: str, of: str, rows: npt.NDArray[np.bool_]) -> KnownMeans:
    """The means of the numbers `of` for each value of the column `name`, over the given rows."""
    numbers = pd.to_numeric(table[of][rows], errors="coerce").astype(float)
    overall = float(numbers.mean())
    away = (numbers - overall).groupby(texts_of(table[name][rows]))
    pairs = zip(away.sum().items(), away.count(), strict=True)
    values = {str(value): (float(total), float(n)) for (value, total), n in pairs if n}
    return KnownMeans(of, overall, values)


def _mean_features(
    table: pd.DataFrame, name: str, means: KnownMeans, groups: "pd.Series[str] | None"
) -> list[npt.NDArray[np.float64]]:
    values = texts_of(table[name])
    known = np.array([means.values.get(value, (0.0, 0.0)) for value in values])
    total, n = known[:, 0], known[:, 1]
    if groups is not None:
        own = pd.to_numeric(table[means.of], errors="coerce").astype(float) - means.overall
        of_group = own.groupby([groups, values])
        trained = groups.notna().to_numpy()
        total = total - np.where(trained, of_group.transform("sum").fillna(0), 0)
        n = n - np.where(trained, of_group.transform("count").fillna(0), 0)
    return [means.overall + total / (n + _PRIOR_ROWS), np.log1p(n.clip(min=0))]
