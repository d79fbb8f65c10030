"""From the recipe's words to tensors: which rows of which dataset are a task."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fewshot.errors.inputs import ErrorDetail, InputError
from fewshot.tasks.base import Dataset
from fewshot.tasks.datasets import load_dataset
from fewshot.tasks.numbers import NumberTask
from fewshot.tasks.pool import Task
from trials.contract import Component, TaskSpec
from trials.data.disjoint import Hashes, identities

_SHOWN = 8
_TEXT_SHOWN = 60  # characters


class Sources:
    """All datasets of a recipe, and their inputs as one tensor.

    inputs: (n, *features); `offset[name]` is the row at which a dataset begins.
    parts: what each dataset was loaded from.
    """

    def __init__(self, datasets: Mapping[str, Component], cache: Path) -> None:
        self.parts = dict(datasets)
        self._datasets = {
            name: load_dataset(part.name, part.options, cache) for name, part in datasets.items()
        }
        shapes = {name: tuple(d.inputs.shape[1:]) for name, d in self._datasets.items()}
        if len(set(shapes.values())) > 1:
            raise InputError(
                [
                    ErrorDetail(
                        "datasets", "must all have examples of one shape for one model.", shapes
                    )
                ]
            )
        parts = [d.inputs for d in self._datasets.values()]
        self.inputs: Tensor = torch.cat(parts) if len(parts) > 1 else parts[0]  # without a copy
        sizes = [len(d.inputs) for d in self._datasets.values()]
        starts = np.cumsum([0, *sizes[:-1]])
        self.offset = dict(zip(self._datasets, starts.tolist(), strict=True))

    def dataset(self, name: str, path: str) -> Dataset:
        if name not in self._datasets:
            raise InputError(
                [ErrorDetail(path, f"must be one of {', '.join(sorted(self._datasets))}.", name)]
            )
        return self._datasets[name]

    @cached_property
    def identity(self) -> Hashes:
        """(n,): equal for rows that are one example, see `trials.data.disjoint`."""
        return identities(list(self._datasets.values()))

    def described(self, row: int, twin: int) -> str:
        """Two rows of `inputs` that are one example: its text, if any, and their places."""
        dataset, place, where = self._located(row)
        if twin != row:
            where += f" and {self._located(twin)[2]}"
        if dataset.text is None:
            return where
        text = str(dataset.columns[dataset.text].iloc[place])
        short = text if len(text) <= _TEXT_SHOWN else f"{text[:_TEXT_SHOWN]}..."
        return f"{short!r} ({where})"

    def _located(self, row: int) -> tuple[Dataset, int, str]:
        """The dataset of a row of `inputs`, its place there, and both in words."""
        name = next(name for name in reversed(self.offset) if self.offset[name] <= row)
        place = row - self.offset[name]
        return self._datasets[name], place, f"row {place} of {name}"

    def rows(self, spec: TaskSpec, where: Mapping[str, tuple[Any, ...]], path: str) -> np.ndarray:
        """Places (n,) in the dataset's own table of the rows that `where` keeps."""
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
            raise InputError([ErrorDetail(f"{path}.where", "keeps no row at all.", dict(where))])
        return places

    def labels(self, spec: TaskSpec, path: str) -> np.ndarray:
        """The label of every row of the dataset, as text."""
        columns = self.dataset(spec.dataset, f"{path}.dataset").columns
        return self._column(columns, spec.label, f"{path}.label").astype(str).to_numpy()

    def task(self, spec: TaskSpec, path: str, seed: int, kept: "np.ndarray | None" = None) -> Task:
        """The task that `spec` describes; `seed` decides how a corrupt one is corrupted.

        kept: (n,), which rows of `inputs` the task may have; all, if there is no word of it.
        """
        places = self._kept(spec, path, kept)
        column = self._labels(spec, places, path)
        if column.isna().any():
            raise _unlabelled(f"{path}.label", "must have a class in every row.", column.isna())
        labels = pd.factorize(column, sort=True)[0]
        groups = np.zeros(len(places), dtype=np.int64)
        if spec.within is not None:
            columns = self.dataset(spec.dataset, f"{path}.dataset").columns.iloc[places]
            within = self._column(columns, spec.within, f"{path}.within")
            groups = pd.factorize(within, sort=True)[0]
        task = Task(spec.name, places + self.offset[spec.dataset], labels, groups)
        return _corrupted(task, spec, seed)

    def numbers(
        self, spec: TaskSpec, path: str, seed: int, kept: "np.ndarray | None" = None
    ) -> NumberTask:
        """The same of a task whose label is a number."""
        places = self._kept(spec, path, kept)
        column = self._labels(spec, places, path)
        values = pd.to_numeric(column, errors="coerce").astype(float)
        finite = values.abs() < np.inf
        if not finite.all():
            raise _unlabelled(f"{path}.label", "must have a finite number in every row.", ~finite)
        task = NumberTask(spec.name, places + self.offset[spec.dataset], values.to_numpy())
        return _corrupted(task, spec, seed)

    def _kept(self, spec: TaskSpec, path: str, kept: "np.ndarray | None") -> np.ndarray:
        places = self.rows(spec, spec.where, path)
        if kept is None:
            return places
        left: np.ndarray = places[kept[places + self.offset[spec.dataset]]]
        if not len(left):
            rule = "has no example that is not in a later split too."
            raise InputError(
                [ErrorDetail(path, rule, f"{len(places)} shared", "Set `tasks.overlap`.")]
            )
        return left

    def _labels(self, spec: TaskSpec, places: np.ndarray, path: str) -> "pd.Series[Any]":
        dataset = self.dataset(spec.dataset, f"{path}.dataset")
        if spec.label in dataset.features:
            rule = "must not be among what the model reads."
            remedy = f"Put it in the `labels` of the dataset {spec.dataset}."
            raise InputError([ErrorDetail(f"{path}.label", rule, spec.label, remedy)])
        return self._column(dataset.columns.iloc[places], spec.label, f"{path}.label")

    @staticmethod
    def _column(columns: pd.DataFrame, name: str, path: str) -> "pd.Series[Any]":
        if name not in columns:
            raise InputError(
                [ErrorDetail(path, f"must be one of {', '.join(map(str, columns.columns))}.", name)]
            )
        return columns[name]


_T = TypeVar("_T", Task, NumberTask)


def _corrupted(task: _T, spec: TaskSpec, seed: int) -> _T:
    if spec.noise:
        return task.noisy(spec.noise, seed)
    return task.shuffled(seed) if spec.corrupt == "shuffle" else task


def _unlabelled(path: str, rule: str, bad: "pd.Series[bool]") -> InputError:
    rows = ", ".join(map(str, bad.index[bad][:_SHOWN]))
    remedy = f"{bad.sum()} rows have none; fill them in, or leave them out by `where`."
    return InputError([ErrorDetail(path, rule, f"none in row {rows}", remedy)])
