"""Guesses the roles of the columns of a data file: the label, the group, columns to leave out."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from pandas.api.types import is_float_dtype, is_numeric_dtype

from fewshot.errors.inputs import input_error
from orchestrator.config.proposal.data_columns import DataColumns

# Usual names, the most specific first.
_LABELS = (
    *("label", "intent", "class", "category", "target", "char", "y", "outcome", "diagnosis"),
    *("species", "sentiment", "topic", "score", "rating", "price"),
)
_GROUPS = (
    *("domain", "scenario", "group", "alphabet", "subject", "user", "school", "source"),
    *("hospital", "site", "region", "country", "store"),
)
_ID = re.compile(r"(?i:unnamed: \d+|index|idx|row_?(names?|numbers?)?|(.*[\W_])?id)|.*[a-z]I[dD]")
_MAX_CLASSES = 50  # a column of more integers holds numbers to predict
LEAST_TASKS, LEAST_CLASSES = 4, 6  # that a split into train, validation and test needs
POINTS = 10  # labelled rows of an episode, if the labels are numbers


@dataclass(frozen=True)
class Roles:
    """The roles of the columns; `*_reason` says why a column was chosen.

    label: the column to predict. numbers: whether its values are numbers, not classes.
    group: the column whose values are the tasks; None if the classes themselves are divided.
    left_out: the other numeric columns of a table that cannot be features, with the reasons.
    """

    label: str
    label_reason: str
    numbers: bool
    group: str | None
    group_reason: str
    left_out: Mapping[str, str]


def roles_of(data: DataColumns, label: str | None, group: str | None) -> Roles:
    """The roles of the columns; `label` and `group` are guessed if they are None.

    Raises InputError if a given column does not exist, or if no column looks like a label.
    """
    label_reason = group_reason = "chosen by an option"
    names = data.names
    if label is not None and label not in names:
        raise input_error("--label", f"must be a column: {', '.join(names)}.", label)
    if label is None:
        label, label_reason = _guess_label(data, group)
    numbers = data.source == "table" and _is_number(data.frame[label])
    others = [name for name in names if name not in (label, data.text)]
    if group is not None and group not in others:
        rule = f"must be a different column, one of: {', '.join(others)}."
        raise input_error("--group", rule, group)
    if group is None:
        group, group_reason = _guess_group(data, others, label, numbers=numbers)
    return Roles(label, label_reason, numbers, group, group_reason, _left_out(data, label, group))


def is_task(labels: pd.Series, *, numbers: bool) -> bool:
    """Whether rows with these labels are enough for a task."""
    if numbers:
        return int(labels.notna().sum()) >= 2 * POINTS
    return int((labels.value_counts() >= 2).sum()) >= 2


def _guess_label(data: DataColumns, group: str | None) -> tuple[str, str]:
    """The column to predict, and why."""
    frame, table = data.frame, data.source == "table"
    names = [n for n in data.names if n not in (data.text, group) and frame[n].nunique() >= 2]
    usual = [n for n in names if n.lower() in _LABELS and (table or _has_classes(frame[n]))]
    if usual:
        return min(usual, key=lambda n: _LABELS.index(n.lower())), "its name is usual for a label"
    names = [n for n in names if not _is_id(frame, n)]
    found = _last_label(frame, names) if table else _repeated_label(data, names)
    if found is None:
        known = ", ".join(data.names)
        rule = f"is needed: no column looks like classes. The columns are {known}."
        raise input_error("--label", rule)
    return found


def _last_label(frame: pd.DataFrame, names: list[str]) -> tuple[str, str] | None:
    """The last column of a table that can be a label; tables usually end with the label.

    A last column of names, such as the hospital of a patient, can be the group instead. It is, if
    the column before it holds a few classes, or if it has too few values to be split itself.
    """
    names = [n for n in names if is_numeric_dtype(frame[n]) or _has_classes(frame[n])]
    if not names:
        return None
    others = [n for n in names if not _has_groups(frame[n])]
    last, reason = names[-1], "the last column that is neither constant nor an id"
    if not others or last == others[-1]:
        return last, reason
    if _has_classes(frame[others[-1]]) or frame[last].nunique() < LEAST_CLASSES:
        return others[-1], f"{reason} nor a group"
    return last, reason


def _repeated_label(data: DataColumns, names: list[str]) -> tuple[str, str] | None:
    """The column with the most values that repeat, names before numbers.

    A column with too few classes to be divided is chosen only if a different column has the tasks.
    """
    counts = {n: data.frame[n].nunique() for n in names}
    repeated = [n for n in names if counts[n] <= len(data.frame) / 4]
    repeated.sort(key=lambda n: (is_numeric_dtype(data.frame[n]), -counts[n]))
    for name in repeated:
        others = [n for n in data.names if n not in (name, data.text)]
        can_be_split = counts[name] >= LEAST_CLASSES
        if can_be_split or _guess_group(data, others, name, numbers=False)[0] is not None:
            return name, "its values repeat, and the data can be split into tasks"
    return (repeated[0], "its values repeat") if repeated else None


def _guess_group(
    data: DataColumns, names: list[str], label: str, *, numbers: bool
) -> tuple[str | None, str]:
    """The column whose values are tasks, and why; None if the classes are to be divided."""
    frame = data.frame
    tasks = {name: _n_tasks(frame, name, label, numbers=numbers) for name in names}
    usable = [name for name in names if tasks[name] >= LEAST_TASKS]
    for name in usable:
        if _bare(name) in _GROUPS:
            return name, "its name is usual for a group, and its values have enough rows"
    for name in usable:
        if not numbers and frame.groupby(label, observed=True)[name].nunique().max() == 1:
            return name, "each class occurs under one of its values only"
    texts = [n for n in usable if _has_groups(frame[n]) and tasks[n] == frame[n].nunique()]
    # Texts and images are rather divided by classes, so that held-out tasks have new classes.
    if texts and (data.source == "table" or frame[label].nunique() < LEAST_CLASSES):
        most = max(texts, key=lambda n: tasks[n])
        return most, "of the columns of names, it has the most values, and all have enough rows"
    if numbers:
        rule = (
            f"is needed, because the label {label} holds numbers: a column whose values are the "
            f"tasks. Of at least {LEAST_TASKS} values, each must have {2 * POINTS} rows or more."
        )
        known = f"Possible columns: {', '.join(usable)}." if usable else "No column is suitable."
        raise input_error("--group", rule, remedy=f"{known} `--label` chooses a different label.")
    return None, _why_no_group(frame, names, label)


def _why_no_group(frame: pd.DataFrame, names: list[str], label: str) -> str:
    """Why the classes are divided, with the columns that can be chosen instead."""
    names = [name for name in names if not is_float_dtype(frame[name])]
    possible = [n for n in names if _n_with_enough_rows(frame, n, label) >= LEAST_TASKS]
    if not possible:
        return "no other column divides the rows into tasks"
    return f"for tasks that are the values of a column, add --group {' or --group '.join(possible)}"


def _n_tasks(frame: pd.DataFrame, column: str, label: str, *, numbers: bool) -> int:
    """How many values of a column have enough rows for a task; 0 if most rows differ in it."""
    values = frame[column]
    if is_float_dtype(values) or values.nunique() > len(frame) / 4:
        return 0
    return _n_with_enough_rows(frame, column, label, numbers=numbers)


def _n_with_enough_rows(
    frame: pd.DataFrame, column: str, label: str, *, numbers: bool = False
) -> int:
    """How many values of a column have enough rows for a task."""
    return sum(is_task(rows, numbers=numbers) for _, rows in frame.groupby(column)[label])


def _left_out(data: DataColumns, label: str, group: str | None) -> dict[str, str]:
    """The numeric columns of a table that cannot be features."""
    if data.source != "table":
        return {}
    frame = data.frame
    reasons = {}
    for name in (n for n in data.names if is_numeric_dtype(frame[n])):
        if name in (label, group):
            continue
        if _is_id(frame, name):
            reasons[name] = "an id"
        elif np.isinf(frame[name].to_numpy(float, na_value=np.nan)).any():
            reasons[name] = "has infinite numbers"
        elif frame[name].isna().all():
            reasons[name] = "is empty"
    return reasons


def _is_number(values: pd.Series) -> bool:
    many = (is_float_dtype(values) and values.nunique() > 2) or values.nunique() > _MAX_CLASSES
    return bool(is_numeric_dtype(values) and many)


def _has_classes(values: pd.Series) -> bool:
    """Whether the values look like classes: texts or a few integers, which repeat."""
    few = 2 <= values.nunique() <= len(values) / 4
    return few and not _is_number(values)


def _has_groups(values: pd.Series) -> bool:
    """Whether the values look like names of groups: texts, each of which repeats."""
    if is_numeric_dtype(values):
        return False
    return values.nunique() >= LEAST_TASKS and int(values.value_counts().min()) >= 4


def _is_id(frame: pd.DataFrame, name: str) -> bool:
    """Whether a column numbers the rows or names each of them."""
    values = frame[name]
    if _ID.fullmatch(name):
        return True
    if is_float_dtype(values) or values.nunique() < len(values):
        return False
    return not is_numeric_dtype(values) or bool(values.is_monotonic_increasing)


def _bare(name: str) -> str:
    """The name in lower case without an ending such as `_id`: `user` for `userId`."""
    return re.sub(r"[\W_]*(id|name|code)$", "", name.lower())
