"""Proposes a first config for a user's data, with a split into tasks."""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from fewshot.errors.inputs import input_error
from fewshot.tasks.functions import FAMILIES
from orchestrator.config.proposal.column_roles import (
    LEAST_CLASSES,
    LEAST_TASKS,
    POINTS,
    Roles,
    is_task,
    roles_of,
)
from orchestrator.config.proposal.data_columns import DataColumns, read_columns
from orchestrator.config.proposal.groups import group_proposal, many_groups
from orchestrator.config.proposal.lines import (
    HEAD,
    MODELS,
    SEARCH,
    dataset,
    described,
    how_to_choose,
    unused_columns,
)
from orchestrator.config.sections.section import task_name_from

_MAX_NAME = 64  # characters of a task's name
_MAX_TASKS = 24  # of each split: the search finds a weight for each training task
_QUERY = 5  # scored examples of each class in an episode


@dataclass(frozen=True)
class Proposal:
    """text: the YAML of the config; summary: lines that describe the data."""

    text: str
    summary: tuple[str, ...]


@dataclass(frozen=True)
class _Split:
    """Values of a column for each split; `of_classes` if the column is the label itself.

    n_values: how many values of the column can be used; the splits may have fewer.
    """

    column: str
    train: Sequence[object]
    validation: Sequence[object]
    test: Sequence[object]
    n_values: int
    of_classes: bool


_DEFAULT_NAME = "search"  # of a config that `fewtune init` writes


def propose(
    data: Path | None, out: Path, *, label: str | None = None, group: str | None = None
) -> Proposal:
    """A config for `data`, to be written to `out`; without data, for families of functions.

    The search has the name of `out`, or that of the data if `out` has its default name.

    label: the column to predict, group: the column whose values are the tasks; both are guessed
    from names and contents if they are None. Comments in the config give the reasons.

    Raises InputError if the data cannot be read, or does not contain enough tasks for a split.
    """
    source = data.name if data else "functions"
    given = source.split(".")[0] if out.stem == _DEFAULT_NAME else out.stem
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", given).strip("._-") or _DEFAULT_NAME
    if data is None:
        return _for_functions(name)
    columns = read_columns(data)
    roles = roles_of(columns, label, group)
    path = _path(data, out)
    if columns.source == "table" and (groups := many_groups(columns.frame, roles)):
        text, lines = group_proposal(name, data.name, path, columns, roles, groups)
        return Proposal(text, tuple(lines))
    return _for_rows(name, data.name, path, columns, roles, _split(columns.frame, roles))


def _path(data: Path, out: Path) -> str:
    """The path in the config: relative to it, if the data are in its folder."""
    folder = out.parent.absolute()
    if data.absolute().is_relative_to(folder):
        return os.path.relpath(data.absolute(), folder)
    return str(data.absolute())


def _split(frame: pd.DataFrame, roles: Roles) -> _Split:
    label, of_classes = roles.label, roles.group is None
    values: list[object]
    if of_classes:
        counts = frame[label].value_counts()
        values, least = sorted(counts.index[counts >= 2], key=str), LEAST_CLASSES
    else:
        groups = frame.groupby(roles.group)[label]
        values = [value for value, rows in groups if is_task(rows, numbers=roles.numbers)]
        least = LEAST_TASKS
    values = [_plain_value(v) for v in values if 0 < len(task_name_from(str(v))) <= _MAX_NAME]
    if len(values) < least:
        what = (
            f"classes with two examples in the label {label}"
            if of_classes
            else f"tasks with enough examples in the column {roles.group}"
        )
        rule = f"must have at least {least} {what} for a split into train, validation and test."
        remedy = "Add data, or choose other columns with --label and --group."
        raise input_error("DATA", rule, len(values), remedy)
    order = np.random.default_rng(0).permutation(len(values))
    held = max(2 if of_classes else 1, len(values) // 4)
    parts = order[2 * held :], order[held : 2 * held], order[:held]
    most = len(values) if of_classes else _MAX_TASKS
    train, validation, test = ([values[i] for i in sorted(part[:most])] for part in parts)
    return _Split(
        roles.group or label,
        train=train,
        validation=validation,
        test=test,
        n_values=len(values),
        of_classes=of_classes,
    )


def _plain_value(value: object) -> object:
    return int(value) if isinstance(value, np.integer | int) else str(value)


def _for_functions(name: str) -> Proposal:
    train = [family for family in FAMILIES if family != "sinusoid"]
    lines = ["    - {function: %s}" % family for family in train]  # noqa: UP031
    text = HEAD.format(what="families of functions", name=name) + "\n".join(
        [
            "tasks:",
            "  train:",
            *lines,
            "  validation:  # the same family is fine: its functions are drawn anew",
            "    - {function: sinusoid}",
            "  test:",
            "    - {function: sinusoid}",
            "",
            "model: {name: mlp, hidden: [40, 40]}",
            "learner: {name: maml}",
            "episodes: {shot: 10, query: 10}",
            "steps: 300",
            "",
            "space:  # a range is searched, a number is fixed",
            "  lr/outer: {low: 3e-4, high: 3e-2}",
            "  lr/inner: 0.01",
            "  lr/adapt: 0.01",
            "",
            SEARCH,
        ]
    )
    return Proposal(text, (f"families of functions: {', '.join(FAMILIES)}",))


def _for_rows(
    name: str, what: str, path: str, columns: DataColumns, roles: Roles, split: _Split
) -> Proposal:
    tasks, n_tasks = _tasks(split, roles)
    text = HEAD.format(what=what, name=name) + "\n".join(
        [
            *_explained_roles(columns, roles, split),
            "datasets:",
            f"  data: {dataset(columns, path, roles)}",
            "",
            "tasks:",
            "  overlap: drop  # an example in two splits is removed from the earlier one",
            *tasks,
            "",
            MODELS[columns.model],
            f"learner: {{name: {_learner(columns, roles)}}}",
            *_episodes(columns.frame, roles, split, n_tasks),
            "steps: 300",
            "",
            "space:  # a range is searched, a number is fixed",
            "  lr/outer: {low: 1e-4, high: 3e-2}",
            *(_OF_TITLES if columns.titles else ()),
            "",
            SEARCH,
        ]
    )
    return Proposal(text, tuple(_summary(columns, roles, split)))


def _learner(columns: DataColumns, roles: Roles) -> str:
    if columns.titles:
        return "modal_protonet"
    return "ridge" if roles.numbers else "protonet"


def _summary(columns: DataColumns, roles: Roles, split: _Split) -> list[str]:
    """Lines for the terminal: what the data are, and which choices were made."""
    unit = "classes" if split.of_classes else "tasks"
    sizes = f"{len(split.train)} / {len(split.validation)} / {len(split.test)}"
    lines = [
        *described(columns, roles),
        f"split by {split.column}: {sizes} {unit} for train / validation / test"
        f"{_rest(split)}: {roles.group_reason}",
    ]
    if left := unused_columns(roles):
        lines.append(f"not used as features: {left}")
    return lines


def _rest(split: _Split) -> str:
    """A note if not all values are used."""
    used = len(split.train) + len(split.validation) + len(split.test)
    return f" ({split.n_values - used} more are not used)" if used < split.n_values else ""


def _explained_roles(columns: DataColumns, roles: Roles, split: _Split) -> list[str]:
    """Comments that say how the columns were chosen, and how to choose others."""
    kind = "numbers" if roles.numbers else "classes"
    tasks = (
        f"parts of the classes: {roles.group_reason}."
        if roles.group is None
        else f"values of {json.dumps(roles.group)}{_rest(split)}: {roles.group_reason}."
    )
    return [
        f"# label: {json.dumps(roles.label)} ({kind}): {roles.label_reason}.",
        f"# tasks: {tasks}",
        *how_to_choose(columns, roles),
    ]


def _tasks(split: _Split, roles: Roles) -> tuple[list[str], int]:
    """Lines of YAML, and the number of training tasks."""
    label, kind = roles.label, ", kind: regression" if roles.numbers else ""
    rest = f"dataset: data, label: {json.dumps(label)}{kind}}}"

    def each(values: Sequence[object]) -> list[str]:
        listed = json.dumps(list(values), ensure_ascii=False)
        return [f"    - {{each: {{{json.dumps(split.column)}: {listed}}}, {rest}"]

    def classes(name: str, values: Sequence[object]) -> list[str]:
        listed = json.dumps(list(values), ensure_ascii=False)
        return [f"    - {{name: {name}, where: {{{json.dumps(label)}: {listed}}}, {rest}"]

    if not split.of_classes:
        train, n = each(split.train), len(split.train)
        validation, test = each(split.validation), each(split.test)
    else:
        # With one training task there are no weights to search: two if each has three classes.
        n = max(1, min(2, len(split.train) // 3), min(8, len(split.train) // 5))
        parts = [list(split.train[i::n]) for i in range(n)]
        train = [line for i, part in enumerate(parts) for line in classes(f"part_{i + 1}", part)]
        validation, test = classes("validation", split.validation), classes("test", split.test)
    lines = ["  train:  # the search finds a weight for each task", *train]
    lines += ["  validation:  # trials are ranked by these", *validation]
    lines += ["  test:  # scored once, at the end", *test]
    return lines, n


def _episodes(frame: pd.DataFrame, roles: Roles, split: _Split, n_tasks: int) -> list[str]:
    """Lines of YAML: a way, shot and query for which every task has enough examples."""
    if roles.numbers:
        shapes, what = f"shot: {POINTS}, query: {POINTS}", "rows"
    else:
        way, query = _shapes(frame, roles.label, split, n_tasks)
        shapes, what = f"way: {way}, shot: 1, query: {query}", "examples of each of `way` classes"
    return [f"# `shot` labelled and `query` scored {what}", f"episodes: {{{shapes}}}"]


def _shapes(frame: pd.DataFrame, label: str, split: _Split, n_tasks: int) -> tuple[int, int]:
    """A way and query for which every task has enough examples."""
    if split.of_classes:
        counts = frame[label].value_counts()
        values = [*split.train, *split.validation, *split.test]
        fewest = min(int(counts.get(v, counts.max())) for v in values)
        way = min(5, len(split.train) // n_tasks, len(split.validation), len(split.test))
        return way, max(1, min(_QUERY, fewest - 1))
    used = {*split.train, *split.validation, *split.test}
    groups = frame.groupby(split.column)[label]
    classes = [rows.value_counts() for value, rows in groups if _plain_value(value) in used]
    sizes = [counts[counts >= 2] for counts in classes if (counts >= 2).sum() >= 2]
    way = min(5, *(len(counts) for counts in sizes))
    # Classes with fewer examples than an episode needs are not used.
    fewest = min(int(counts.nlargest(way).min()) for counts in sizes)
    return way, max(1, min(_QUERY, fewest - 1))


_OF_TITLES = ("  modal/text: {low: 0, high: 1}  # the weight of the title; 0 uses the image alone",)
