"""Proposes a first config for a user's data, with a split into tasks."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from pandas.api.types import is_float_dtype, is_numeric_dtype

from fewshot.errors.inputs import input_error
from fewshot.tasks.functions import FAMILIES
from orchestrator.config.data_columns import ENCODER, DataColumns, read_columns
from orchestrator.config.sections.section import task_name_from

_LABELS = ("label", "intent", "class", "category", "target", "char", "y")
_GROUPS = ("domain", "scenario", "group", "alphabet", "subject", "user", "school", "source")
_MAX_NAME = 64  # characters of a task's name
_QUERY, _POINTS = 5, 10  # of an episode: examples per class, or numbers


@dataclass(frozen=True)
class Proposal:
    """text: the YAML of the config; summary: lines that describe the data."""

    text: str
    summary: tuple[str, ...]


@dataclass(frozen=True)
class _Split:
    """Values of a column for each split; `classes` if the column is the label itself."""

    column: str
    train: Sequence[object]
    validation: Sequence[object]
    test: Sequence[object]
    of_classes: bool = False


def propose(
    data: Path | None, out: Path, *, label: str | None = None, group: str | None = None
) -> Proposal:
    """A config for `data`, to be written to `out`; without data, for families of functions.

    label: the column to predict, group: the column whose values are the tasks; both are guessed
    from names and contents if they are None.

    Raises InputError if the data cannot be read, or does not contain enough tasks for a split.
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", (data.name if data else "functions").split(".")[0])
    name = name.strip("._-") or "search"
    if data is None:
        return _for_functions(name)
    found = read_columns(data)
    label = _label(found, label)
    numbers = found.source == "table" and _is_number(found.frame[label])
    group = _group(found, label, group, numbers=numbers)
    split = _split(found, label, group, numbers=numbers)
    return _for_rows(name, data, out, found, label, split, numbers=numbers)


def _label(found: DataColumns, wanted: str | None) -> str:
    names = found.names
    if wanted is not None:
        if wanted not in names:
            raise input_error("--label", f"must be a column: {', '.join(names)}.", wanted)
        return wanted
    for name in (*_LABELS, *(n for n in names if str(n).lower() in _LABELS)):
        if name in names and name != found.text:
            return name
    counts = {n: found.frame[n].nunique() for n in names if n != found.text}
    repeated = {n: c for n, c in counts.items() if 2 <= c <= len(found.frame) / 4}
    if not repeated:
        rule = f"is needed: no column looks like classes. The columns are {', '.join(names)}."
        raise input_error("--label", rule)
    return max(repeated, key=lambda n: repeated[n])


def _group(found: DataColumns, label: str, wanted: str | None, *, numbers: bool) -> str | None:
    names = [n for n in found.names if n not in (label, found.text)]
    if wanted is not None:
        if wanted not in names:
            rule = f"must be a different column, one of: {', '.join(names)}."
            raise input_error("--group", rule, wanted)
        return wanted
    usable = [n for n in names if _groups_classes(found.frame, n, label, numbers=numbers)]
    named = [n for n in usable if str(n).lower() in _GROUPS]
    return next(iter(named or usable), None)


def _groups_classes(frame: pd.DataFrame, column: str, label: str, *, numbers: bool) -> bool:
    """Whether the values of a column can be tasks: at least four, with enough rows or classes."""
    values = frame[column]
    if is_float_dtype(values) or not 4 <= values.nunique() <= len(frame) / 4:
        return False
    if numbers:
        return bool(values.value_counts().nlargest(4).min() >= 2 * _POINTS)
    # No two tasks may share a class: each label must occur under one value of the column.
    nested = frame.groupby(label, observed=True)[column].nunique().max() == 1
    return bool(nested and frame.groupby(column, observed=True)[label].nunique().max() >= 2)


def _split(found: DataColumns, label: str, group: str | None, *, numbers: bool) -> _Split:
    frame = found.frame
    if group is not None:
        values: list[object] = [
            value for value, rows in frame.groupby(group) if _is_task(rows[label], numbers=numbers)
        ]
        column, of_classes, least = group, False, 4
    elif numbers:
        rule = "is needed: a column whose values are tasks, each with rows of its own."
        raise input_error("--group", rule)
    else:
        counts = frame[label].value_counts()
        values, column = sorted(counts.index[counts >= 2], key=str), label
        of_classes, least = True, 6
    values = [_plain_value(v) for v in values if 0 < len(task_name_from(str(v))) <= _MAX_NAME]
    if len(values) < least:
        what = "classes with two examples" if of_classes else "tasks with enough examples"
        rule = f"must have at least {least} {what} for a split into train, validation and test."
        raise input_error("DATA", rule, len(values), "Add data, or use a different --group.")
    order = np.random.default_rng(0).permutation(len(values))
    held = max(2 if of_classes else 1, len(values) // 4)
    test, validation, train = order[:held], order[held : 2 * held], order[2 * held :]
    return _Split(
        column,
        train=[values[i] for i in sorted(train)],
        validation=[values[i] for i in sorted(validation)],
        test=[values[i] for i in sorted(test)],
        of_classes=of_classes,
    )


def _is_task(labels: pd.Series, *, numbers: bool) -> bool:
    if numbers:
        return int(labels.notna().sum()) >= 2 * _POINTS
    counts = labels.value_counts()
    return int((counts >= 2).sum()) >= 2


def _is_number(values: pd.Series) -> bool:
    return bool(is_numeric_dtype(values) and (is_float_dtype(values) or values.nunique() > 50))


def _plain_value(value: object) -> object:
    return int(value) if isinstance(value, np.integer | int) else str(value)


def _for_functions(name: str) -> Proposal:
    train = [family for family in FAMILIES if family != "sinusoid"]
    lines = ["    - {function: %s}" % family for family in train]  # noqa: UP031
    text = _HEAD.format(what="families of functions", name=name) + "\n".join(
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
            _SEARCH,
        ]
    )
    return Proposal(text, (f"families of functions: {', '.join(FAMILIES)}",))


def _for_rows(
    name: str,
    data: Path,
    out: Path,
    found: DataColumns,
    label: str,
    split: _Split,
    *,
    numbers: bool,
) -> Proposal:
    where = str(data.absolute())
    if data.absolute().is_relative_to(out.parent.absolute()):
        where = os.path.relpath(data.absolute(), out.parent.absolute())
    tasks, n_tasks = _tasks(split, label, numbers=numbers)
    way, shot, query = _shapes(found.frame, label, split, n_tasks, numbers=numbers)
    shapes = f"{{shot: {shot}, query: {query}}}"
    if not numbers:
        shapes = f"{{way: {way}, shot: {shot}, query: {query}}}"
    learner = "ridge" if numbers else "protonet"
    text = _HEAD.format(what=str(data.name), name=name) + "\n".join(
        [
            "datasets:",
            f"  data: {_dataset(found, where, label, split, numbers=numbers)}",
            "",
            "tasks:",
            "  overlap: drop  # an example in two splits is removed from the earlier one",
            *tasks,
            "",
            MODELS[found.model],
            f"learner: {{name: {learner}}}",
            f"episodes: {shapes}  # {_EXPLAINED[numbers]}",
            "steps: 300",
            "",
            "space:  # a range is searched, a number is fixed",
            "  lr/outer: {low: 1e-4, high: 1e-2}",
            "",
            _SEARCH,
        ]
    )
    what = "numbers" if numbers else f"{found.frame[label].nunique()} classes"
    columns = ", ".join(found.names)
    unit = "classes" if split.of_classes else "tasks"
    sizes = f"{len(split.train)} / {len(split.validation)} / {len(split.test)}"
    return Proposal(
        text,
        (
            f"{found.source}: {len(found.frame)} rows; columns: {columns}",
            f"label: {label} ({what})",
            f"split by {split.column}: {sizes} {unit} for train / validation / test",
        ),
    )


def _dataset(found: DataColumns, where: str, label: str, split: _Split, *, numbers: bool) -> str:
    parts: dict[str, object] = {"source": found.source, "path": where}
    if found.source == "text":
        parts |= {"text": found.text} if found.text != "text" else {}
        parts |= (
            {"features": "encoder", "encoder": ENCODER}
            if found.model == "residual"
            else {"features": "ngrams"}
        )
    if found.source == "images":
        parts |= {"size": 28}
    if found.source == "table":
        numeric = [n for n in found.names if is_numeric_dtype(found.frame[n])]
        labels = [n for n in (label, split.column) if n in numeric]
        parts |= {"labels": list(dict.fromkeys(labels))} if labels else {}
    return "{" + ", ".join(f"{key}: {json.dumps(value)}" for key, value in parts.items()) + "}"


def _tasks(split: _Split, label: str, *, numbers: bool) -> tuple[list[str], int]:
    """Lines of YAML, and the number of training tasks."""
    kind = ", kind: regression" if numbers else ""
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
        n = max(1, min(8, len(split.train) // 5))
        parts = [list(split.train[i::n]) for i in range(n)]
        train = [line for i, part in enumerate(parts) for line in classes(f"part_{i + 1}", part)]
        validation, test = classes("validation", split.validation), classes("test", split.test)
    lines = ["  train:  # the search finds a weight for each task", *train]
    lines += ["  validation:  # trials are ranked by these", *validation]
    lines += ["  test:  # scored once, at the end", *test]
    return lines, n


def _shapes(
    frame: pd.DataFrame, label: str, split: _Split, n_tasks: int, *, numbers: bool
) -> tuple[int, int, int]:
    """A way, shot and query for which every task has enough examples."""
    if numbers:
        return 1, _POINTS, _POINTS
    if split.of_classes:
        counts = frame[label].value_counts()
        values = [*split.train, *split.validation, *split.test]
        fewest = min(int(counts.get(v, counts.max())) for v in values)
        way = min(5, len(split.train) // n_tasks, len(split.validation), len(split.test))
        return way, 1, max(1, min(_QUERY, fewest - 1))
    classes = [rows[label].value_counts() for _, rows in frame.groupby(split.column)]
    sizes = [counts[counts >= 2] for counts in classes if (counts >= 2).sum() >= 2]
    way = min(5, *(len(counts) for counts in sizes))
    # Classes with fewer examples than an episode needs are not used.
    fewest = min(int(counts.nlargest(way).min()) for counts in sizes)
    return way, 1, max(1, min(_QUERY, fewest - 1))


_HEAD = """# A search on {what}, proposed by `fewtune init`.
# Next: `fewtune check`, then `fewtune search`.
name: {name}
seed: 0

"""
_SEARCH = """search:
  trials: 48
  reference_trials: 8  # of these with equal weights, to tune the rates of the reference
  finalists: 3         # retrained with new seeds, and scored on fresh episodes
  seeds: 3
"""
MODELS: Mapping[str, str] = {
    "residual": "model: {name: residual}  # the encoder's features plus a correction that starts "
    "at zero",
    "bag": "# For better features install an encoder: `features: encoder, encoder: NAME` in "
    "`data`,\n# with `model: {name: residual}`.\nmodel: {name: bag}",
    "pixels": "# `model: {name: conv, width: 32}` is better on images, but takes hours on a CPU.\n"
    "model: {name: mlp, hidden: [128], n_out: 64}",
    "mlp": "model: {name: mlp, hidden: [64], n_out: 32}",
}
_EXPLAINED = {
    False: "`shot` labelled and `query` scored examples of each of `way` classes",
    True: "`shot` labelled and `query` scored rows",
}
