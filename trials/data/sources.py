"""Loads the datasets of a recipe and selects the rows of its tasks."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from pandas.api.types import is_datetime64_any_dtype
from torch import Tensor

from fewshot.errors.inputs import ErrorDetail, InputError
from fewshot.tasks.base import Dataset
from fewshot.tasks.datasets import load_dataset
from fewshot.tasks.pool import Task
from fewshot.tasks.regression import RegressionTask
from fewshot.tasks.tables.cells import texts_of
from trials.contract import Component, TaskSpec
from trials.data.disjoint import Hashes, identities

_SHOWN = 8
_TEXT_SHOWN = 60  # characters


def _loaded(parts: Mapping[str, Component], cache: Path) -> dict[str, Dataset]:
    """The datasets by name; raises InputError with the errors of all that can't be loaded."""
    found, details = {}, list[ErrorDetail]()
    for name, part in parts.items():
        try:
            found[name] = load_dataset(part.name, part.options, cache)
        except InputError as error:
            places = (part.name, "dataset")
            details += [replace(d, path=_in_config(d.path, name, places)) for d in error.details]
    if details:
        raise InputError(details)
    return found


def _in_config(path: str, name: str, places: Collection[str]) -> str:
    """The path in a config of an error that names an option of the dataset `name`.

    Other paths, such as those of files, are kept. places: what the path may begin with
    instead of the dataset.
    """
    first, _, rest = path.partition(".")
    option = path if first not in places else rest
    if not option:
        return f"datasets.{name}"
    return f"datasets.{name}.{option}" if option.isidentifier() else path


class Sources:
    """All datasets of a recipe, with their inputs in one tensor.

    inputs: (n, *features), the rows of all datasets in order.
    offset: for each dataset, the index of its first row in `inputs`.
    parts: for each dataset, the component that it was loaded from.
    """

    def __init__(self, datasets: Mapping[str, Component], cache: Path) -> None:
        self.parts = dict(datasets)
        self._datasets = _loaded(datasets, cache)
        shapes = {name: tuple(d.inputs.shape[1:]) for name, d in self._datasets.items()}
        if len(set(shapes.values())) > 1:
            raise InputError(
                [ErrorDetail("datasets", "must all have examples of the same shape.", shapes)]
            )
        parts = [d.inputs for d in self._datasets.values()]
        self.inputs: Tensor = torch.cat(parts) if len(parts) > 1 else parts[0]  # without a copy
        self._moved: dict[torch.device, Tensor] = {}
        self._drawn: dict[torch.device, Tensor] = {}
        sizes = [len(d.inputs) for d in self._datasets.values()]
        starts = np.cumsum([0, *sizes[:-1]])
        self.offset = dict(zip(self._datasets, starts.tolist(), strict=True))

    def inputs_on(self, device: torch.device) -> Tensor:
        """The inputs on a device, to which they are copied once."""
        if device not in self._moved:
            self._moved[device] = self.inputs.to(device)
        return self._moved[device]

    @property
    def query_offset(self) -> int:
        """What is added to the row of an example to get what a query shows of it; 0 if all."""
        return len(self.inputs) if any(d.n_hidden for d in self._datasets.values()) else 0

    def drawn_on(self, device: torch.device) -> Tensor:
        """The inputs from which episodes are drawn, on a device: (n, ...), or (2 n, ...).

        If queries show less than supports, what queries show follows `inputs`.
        """
        if not self.query_offset:
            return self.inputs_on(device)
        if device not in self._drawn:
            shown = [dataset.as_queries() for dataset in self._datasets.values()]
            self._drawn[device] = torch.cat([self.inputs, *shown]).to(device)
        return self._drawn[device]

    def dataset(self, name: str, path: str) -> Dataset:
        if name not in self._datasets:
            raise InputError(
                [ErrorDetail(path, f"must be one of {', '.join(sorted(self._datasets))}.", name)]
            )
        return self._datasets[name]

    @cached_property
    def identity(self) -> Hashes:
        """Hashes (n,), equal for rows of the same example, see `trials.data.disjoint`."""
        return identities(list(self._datasets.values()))

    def described(self, row: int, twin: int) -> str:
        """Describes two rows of the same example: its text, if it has one, and both places."""
        dataset, place, where = self._located(row)
        if twin != row:
            where += f" and {self._located(twin)[2]}"
        if dataset.text is None:
            return where
        text = str(dataset.columns[dataset.text].iloc[place])
        short = text if len(text) <= _TEXT_SHOWN else f"{text[:_TEXT_SHOWN]}..."
        return f"{short!r} ({where})"

    def _located(self, row: int) -> tuple[Dataset, int, str]:
        """The dataset of a row of `inputs`, its row number in the dataset, and both in words."""
        name = next(name for name in reversed(self.offset) if self.offset[name] <= row)
        place = row - self.offset[name]
        return self._datasets[name], place, f"row {place} of {name}"

    def rows(self, spec: TaskSpec, where: Mapping[str, tuple[Any, ...]], path: str) -> np.ndarray:
        """Row numbers (n,), in the dataset's own table, of the rows that `where` selects."""
        columns = self.dataset(spec.dataset, f"{path}.dataset").columns
        keep = np.ones(len(columns), dtype=bool)
        for column, values in where.items():
            known = self._column(columns, column, f"{path}.where").astype(str)
            wanted = {str(value) for value in values}
            absent = wanted - set(known.unique())
            if absent:
                examples = ", ".join(sorted(known.unique())[:8])
                raise InputError(
                    [
                        ErrorDetail(
                            f"{path}.where.{column}",
                            f"must name values of the column, such as {examples}.",
                            ", ".join(sorted(absent)),
                        )
                    ]
                )
            keep &= known.isin(wanted).to_numpy()
        places = np.flatnonzero(keep)
        if not len(places):
            raise InputError([ErrorDetail(f"{path}.where", "selects no row.", dict(where))])
        return places

    def labels(self, spec: TaskSpec, path: str) -> np.ndarray:
        """The label of every row of the dataset, as text."""
        columns = self.dataset(spec.dataset, f"{path}.dataset").columns
        return self._column(columns, spec.label, f"{path}.label").astype(str).to_numpy()

    def task(self, spec: TaskSpec, path: str, seed: int, kept: "np.ndarray | None" = None) -> Task:
        """The classification task that `spec` describes.

        seed: the seed for corrupting labels, if the spec has corrupted labels.
        kept: (n,) a mask of the rows of `inputs` that the task may use; all by default.
        """
        places = self._kept(spec, path, kept)
        column = self._labels(spec, places, path)
        if column.isna().any():
            raise _unlabelled(f"{path}.label", "must have a class in every row.", column.isna())
        labels = pd.factorize(column, sort=True)[0]
        groups = self._groups(spec, places, path)
        if groups is None:
            groups = np.zeros(len(places), dtype=np.int64)
        task = Task(spec.name, places + self.offset[spec.dataset], labels, groups)
        return _corrupted(task, spec, seed)

    def numbers(
        self, spec: TaskSpec, path: str, seed: int, kept: "np.ndarray | None" = None
    ) -> RegressionTask:
        """The regression task that `spec` describes; the arguments are those of `task`."""
        places = self._kept(spec, path, kept)
        column = self._labels(spec, places, path)
        values = pd.to_numeric(column, errors="coerce").astype(float)
        finite = values.abs() < np.inf
        if not finite.all():
            raise _unlabelled(f"{path}.label", "must have a finite number in every row.", ~finite)
        task = RegressionTask(
            spec.name,
            places + self.offset[spec.dataset],
            values.to_numpy(),
            self._groups(spec, places, path),
            self._order(spec, places, path),
        )
        return _corrupted(task, spec, seed)

    def groups(self, spec: TaskSpec, column: str, path: str) -> "tuple[np.ndarray, list[str]]":
        """The rows (n,) of a task in `inputs`, and the group of each of them in the column."""
        places = self.rows(spec, spec.where, path)
        columns = self.dataset(spec.dataset, f"{path}.dataset").columns.iloc[places]
        found = texts_of(self._column(columns, column, f"{path}.within"))
        return places + self.offset[spec.dataset], found.tolist()

    def _groups(self, spec: TaskSpec, places: np.ndarray, path: str) -> "np.ndarray | None":
        """The code of the group of each place; None without groups."""
        if spec.within is None:
            return None
        columns = self.dataset(spec.dataset, f"{path}.dataset").columns.iloc[places]
        within = self._column(columns, spec.within, f"{path}.within")
        if within.isna().any():
            raise _unlabelled(f"{path}.within", "must have a group in every row.", within.isna())
        codes: np.ndarray = pd.factorize(within, sort=True)[0]
        return codes

    def _order(self, spec: TaskSpec, places: np.ndarray, path: str) -> "np.ndarray | None":
        """The numbers, or dates as numbers, by which the examples are ordered; None without."""
        if spec.order is None:
            return None
        columns = self.dataset(spec.dataset, f"{path}.dataset").columns.iloc[places]
        column = self._column(columns, spec.order, f"{path}.order")
        found = pd.Series(np.nan, index=column.index)
        if not is_datetime64_any_dtype(column):
            found = pd.to_numeric(column, errors="coerce").astype(float)
        if found.isna().all():
            moments = pd.to_datetime(column, errors="coerce", format="mixed", utc=True)
            found = (moments - pd.Timestamp(0, tz="UTC")).dt.total_seconds()
        finite = found.abs() < np.inf
        if not finite.all():
            rule = "must have a number or a date in every row."
            row = column.index[~finite][0]
            value = f"{column[row]!r} in row {row}"
            remedy = f"{(~finite).sum()} rows have none; exclude them with `where`."
            raise InputError([ErrorDetail(f"{path}.order", rule, value, remedy)])
        return found.to_numpy()

    def _kept(self, spec: TaskSpec, path: str, kept: "np.ndarray | None") -> np.ndarray:
        places = self.rows(spec, spec.where, path)
        if kept is None:
            return places
        left: np.ndarray = places[kept[places + self.offset[spec.dataset]]]
        if not len(left):
            rule = "has no example left, because a later split has all of them too."
            raise InputError(
                [ErrorDetail(path, rule, f"{len(places)} shared", "Set `tasks.overlap`.")]
            )
        return left

    def _labels(self, spec: TaskSpec, places: np.ndarray, path: str) -> "pd.Series[Any]":
        dataset = self.dataset(spec.dataset, f"{path}.dataset")
        if spec.label in dataset.features:
            rule = "must not be one of the features that the model reads."
            remedy = f"Add it to the `labels` of the dataset {spec.dataset}."
            raise InputError([ErrorDetail(f"{path}.label", rule, spec.label, remedy)])
        return self._column(dataset.columns.iloc[places], spec.label, f"{path}.label")

    @staticmethod
    def _column(columns: pd.DataFrame, name: str, path: str) -> "pd.Series[Any]":
        if name not in columns:
            raise InputError(
                [ErrorDetail(path, f"must be one of {', '.join(map(str, columns.columns))}.", name)]
            )
        return columns[name]


# Loads the datasets of a recipe, given the folder for their cached files.
Load = Callable[[Mapping[str, Component], Path], Sources]


class SharedSources:
    """Loads datasets, and returns the same `Sources` as before for datasets that are equal.

    The recipes of one search have equal datasets, so only the last ones are kept.
    """

    def __init__(self) -> None:
        self._last: tuple[Mapping[str, Component], Path, Sources] | None = None

    def __call__(self, datasets: Mapping[str, Component], cache: Path) -> Sources:
        if self._last is None or (self._last[0], self._last[1]) != (datasets, cache):
            self._last = dict(datasets), cache, Sources(datasets, cache)
        return self._last[2]


_T = TypeVar("_T", Task, RegressionTask)


def _corrupted(task: _T, spec: TaskSpec, seed: int) -> _T:
    if spec.noise:
        return task.noisy(spec.noise, seed)
    return task.shuffled(seed) if spec.corrupt == "shuffle" else task


def _unlabelled(path: str, rule: str, bad: "pd.Series[bool]") -> InputError:
    rows = ", ".join(map(str, bad.index[bad][:_SHOWN]))
    remedy = f"{bad.sum()} rows have none; fill them in, or exclude them with `where`."
    return InputError([ErrorDetail(path, rule, f"none in row {rows}", remedy)])
