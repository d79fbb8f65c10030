"""Splits the groups of a table, such as people or schools, into training, validation and test.

A group is in the split that a hash of its name gives, or that the rule names. All rows of a group
are in one split. The split of a group depends neither on the other groups nor on the order of the
rows, so it is the same in every file, and stays the same when groups are added.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from fewshot.errors.inputs import ErrorDetail, InputError, input_error
from fewshot.tasks.tables.cells import EMPTY, texts_of

COLUMN = "split"  # the column that is added to the table
TRAIN, VALIDATION, TEST = "train", "validation", "test"
_SHARE = 0.2
_KEYS = ("by", VALIDATION, TEST)
_PATH = "table.split"


class SplitRule(NamedTuple):
    """Which groups are held out: a share of them in (0, 1), or their names."""

    by: str  # the column with the groups
    validation: float | frozenset[str]
    test: float | frozenset[str]


def split_rule(given: str | Mapping[str, Any]) -> SplitRule:
    """The rule in a config: a column, or `{by: .., validation: .., test: ..}`.

    Raises InputError with all errors in it.
    """
    rule = {"by": given} if isinstance(given, str) else given
    if not isinstance(rule, Mapping) or not isinstance(rule.get("by"), str):
        text = "must be a column, or {by: COLUMN, validation: .., test: ..}."
        raise input_error(_PATH, text, given)
    details = [
        ErrorDetail(f"{_PATH}.{key}", "is not a known key.", None, f"Known keys: {_KEYS}.")
        for key in rule
        if key not in _KEYS
    ]
    held_out: dict[str, float | frozenset[str]] = {}
    for split in (VALIDATION, TEST):
        value = rule.get(split, _SHARE)
        if isinstance(value, list | tuple) and value:
            held_out[split] = frozenset(texts_of(pd.Series(list(value), dtype=object)))
        elif isinstance(value, float) and 0 < value < 1:
            held_out[split] = value
        else:
            text = "must be a share above 0 and below 1, or a list of groups."
            details.append(ErrorDetail(f"{_PATH}.{split}", text, value))
    if details:
        raise InputError(details)
    validation, test = held_out[VALIDATION], held_out[TEST]
    if isinstance(validation, float) and isinstance(test, float) and validation + test >= 1:
        text = "must leave groups for training: the two shares must sum to less than 1."
        raise input_error(_PATH, text, [validation, test])
    if isinstance(validation, frozenset) and isinstance(test, frozenset) and validation & test:
        text = "must not have a group in two splits."
        raise input_error(_PATH, text, sorted(validation & test))
    return SplitRule(str(rule["by"]), validation, test)


def with_split(table: pd.DataFrame, rule: SplitRule, place: str) -> pd.DataFrame:
    """The table with the column `split`; place: the file, for messages.

    Raises InputError if the column of the groups is missing or has empty cells, if the table has a
    column `split` already, or if a named group is not in the table.
    """
    if rule.by not in table:
        known = f"{place} has {', '.join(map(str, table.columns))}."
        raise input_error(f"{_PATH}.by", "must name a column of the file.", rule.by, known)
    if COLUMN in table:
        text = f"can't be used: the table has a column {COLUMN!r} already."
        raise input_error(_PATH, text, rule.by, "Use it with `where`, or rename it.")
    groups = texts_of(table[rule.by])
    if (groups == EMPTY).any():
        text = "must have a group in every row; rows are counted from 0, without the header."
        found = f"none in row {int(np.flatnonzero(groups == EMPTY)[0])}"
        raise input_error(f"{place}:{rule.by}", text, found, "Fill it in, or remove the row.")
    known_groups = groups.unique()
    named = [held for held in (rule.validation, rule.test) if isinstance(held, frozenset)]
    absent = sorted(frozenset[str]().union(*named) - set(known_groups))
    if absent:
        text = f"must name groups of the column, such as {', '.join(sorted(known_groups)[:8])}."
        raise input_error(_PATH, text, ", ".join(absent))
    split_of = {group: _split(group, rule) for group in known_groups}
    return table.assign(**{COLUMN: groups.map(split_of)})


def training_rows(table: pd.DataFrame, rule: SplitRule | None) -> npt.NDArray[np.bool_]:
    """A mask (n,) of the rows of the training groups; without a rule, all rows."""
    if rule is None:
        return np.ones(len(table), dtype=bool)
    found: npt.NDArray[np.bool_] = (table[COLUMN] == TRAIN).to_numpy()
    return found


def _split(group: str, rule: SplitRule) -> str:
    """The split of a group. Named groups come first; the others are split by their hash."""
    for split, held in ((TEST, rule.test), (VALIDATION, rule.validation)):
        if isinstance(held, frozenset) and group in held:
            return split
    place = int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big") / 2**64
    for split, held in ((TEST, rule.test), (VALIDATION, rule.validation)):
        if isinstance(held, float):
            if place < held:
                return split
            place -= held
    return TRAIN
