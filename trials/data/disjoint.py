"""Finds examples that splits share, because a model must not be scored on its training examples.

Two rows are the same example if their content is equal, even in different files and datasets:

- For texts, the text itself is compared, without regard to case and white space. Embeddings are not
  compared: embeddings of the same text differ in their last bits between batches, and many
  encoders ignore case.
- For tables, all columns are compared that the tables of the search have in common. The features
  alone do not identify a row: with four features, most rows of a table have a duplicate.
- For embedded images, the files or pixels are compared.
- For all other data, the model's inputs are compared.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
from pandas.api.types import is_numeric_dtype
from torch import Tensor

from fewshot.errors.inputs import ErrorDetail
from fewshot.tasks.base import Dataset

Sides: TypeAlias = Mapping[str, Mapping[str, npt.NDArray[np.int64]]]
Hashes: TypeAlias = npt.NDArray[np.uint64]

_CHUNK = 1 << 26  # bytes that are hashed at once
_NAMED = 3
_REMEDY = (
    "Set `tasks.overlap: drop` to leave them out of the earlier split, separate the splits with "
    "`where`, or set `tasks.overlap: true` to allow shared examples."
)


def identities(datasets: Sequence[Dataset]) -> Hashes:
    """Hashes (n,) of the rows of all datasets in order; rows of the same example have equal hashes.

    The hashes have 64 bits. The probability that any two different examples among a million rows
    get the same hash is 3e-8.
    """
    tables = [dataset for dataset in datasets if dataset.features]
    common = set.intersection(*(set(map(str, each.columns)) for each in tables)) if tables else ()
    return np.concatenate([_identities(dataset, sorted(common)) for dataset in datasets])


def _identities(dataset: Dataset, common: Sequence[str]) -> Hashes:
    if dataset.text is not None:
        texts = (" ".join(str(x).casefold().split()) for x in dataset.columns[dataset.text])
        return _hashed([text.encode("utf-8", "surrogatepass") for text in texts])
    if dataset.contents is not None:
        return _hashed(list(dataset.contents))
    if dataset.features:
        columns = list(common) or list(dataset.features)
        table = pd.DataFrame({name: _plain(dataset.columns[name]) for name in columns})
        return np.asarray(pd.util.hash_pandas_object(table, index=False), dtype=np.uint64)
    return _of_rows(dataset.inputs)


def _plain(column: "pd.Series[Any]") -> "pd.Series[Any]":
    """The column with all numbers as floats, because a missing value turns integers into floats."""
    if is_numeric_dtype(column):
        return column.astype(float) + 0.0  # -0 becomes 0
    return column.astype(str)


def _of_rows(inputs: Tensor) -> Hashes:
    rows = inputs.flatten(1)
    at_once = max(1, _CHUNK // max(1, rows.shape[1] * rows.element_size()))
    hashes = []
    for part in rows.split(at_once):
        numbers = np.ascontiguousarray((part + 0).numpy())  # -0.0 becomes 0.0
        width = numbers.shape[1] * numbers.itemsize
        hashes.append(_hashed(numbers.view(f"V{width}").ravel().tolist()))
    return np.concatenate(hashes)


def _hashed(contents: list[bytes]) -> Hashes:
    array = np.empty(len(contents), dtype=object)
    array[:] = contents
    return pd.util.hash_array(array, categorize=False)


def shared_rows(
    sides: Sides, identity: Hashes, described: Callable[[int, int], str]
) -> list[ErrorDetail]:
    """One error for every set of rows (n,) that shares examples with a set on another side.

    sides: for each side, such as a split, its sets of rows by their paths in the config. Sets of
        the same side may share examples.
    identity: see `identities`.
    described: returns a description of two rows of the same example.
    """
    details = []
    for ours, theirs in combinations(sides.values(), 2):
        for place, rows in theirs.items():
            others = {
                name: other
                for name, other in ours.items()
                if np.isin(identity[other], identity[rows]).any()
            }
            if others:
                details.append(_fault(place, np.unique(rows), others, identity, described))
    if details:
        details[-1] = replace(details[-1], remedy=_REMEDY)  # only with the last error
    return details


def _fault(
    place: str,
    rows: npt.NDArray[np.int64],
    others: Mapping[str, npt.NDArray[np.int64]],
    identity: Hashes,
    described: Callable[[int, int], str],
) -> ErrorDetail:
    theirs = np.concatenate(list(others.values()))
    shared = rows[np.isin(identity[rows], identity[theirs])]
    twin = theirs[identity[theirs] == identity[shared[0]]][0]
    names = list(others)
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ErrorDetail(
        place,
        f"must share no example with {', '.join(names[:_NAMED])}{more}.",
        f"{len(shared)} of {len(rows)}, such as {described(int(shared[0]), int(twin))}",
    )


def kept_rows(sides: Sides, identity: Hashes) -> dict[str, npt.NDArray[np.bool_]]:
    """For each side a mask (n,) of all rows: True if no later side has the same example."""
    kept, later = {}, np.empty(0, dtype=identity.dtype)
    for side, by_place in reversed(list(sides.items())):
        kept[side] = ~np.isin(identity, later)
        own = [identity[rows] for rows in by_place.values()]
        later = np.concatenate([later, *own])
    return kept
