"""From the recipe's words to tensors: which rows of which dataset are a task."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fewshot.faults import Fault, InputError
from fewshot.tasks.base import Dataset
from fewshot.tasks.datasets import load_dataset
from fewshot.tasks.numbers import NumberTask
from fewshot.tasks.pool import Task
from trials.contract import Component, TaskSpec

_SHOWN = 8


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
                [Fault("datasets", "must all have examples of one shape for one model.", shapes)]
            )
        self.inputs: Tensor = torch.cat([d.inputs for d in self._datasets.values()])
        sizes = [len(d.inputs) for d in self._datasets.values()]
        starts = np.cumsum([0, *sizes[:-1]])
        self.offset = dict(zip(self._datasets, starts.tolist(), strict=True))

    def dataset(self, name: str, path: str) -> Dataset:
        if name not in self._datasets:
            raise InputError(
                [Fault(path, f"must be one of {', '.join(sorted(self._datasets))}.", name)]
            )
        return self._datasets[name]

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
                        Fault(
                            f"{path}.where.{column}",
                            f"must name values of the column, such as {examples}.",
                            ", ".join(sorted(absent)),
                        )
                    ]
                )
            keep &= known.isin(wanted).to_numpy()
        places = np.flatnonzero(keep)
        if not len(places):
            raise InputError([Fault(f"{path}.where", "keeps no row at all.", dict(where))])
        return places

    def labels(self, spec: TaskSpec, path: str) -> np.ndarray:
        """The label of every row of the dataset, as text."""
        columns = self.dataset(spec.dataset, f"{path}.dataset").columns
        return self._column(columns, spec.label, f"{path}.label").astype(str).to_numpy()

    def task(self, spec: TaskSpec, path: str, seed: int) -> Task:
        """The task that `spec` describes; `seed` decides how a corrupt one is corrupted."""
        places = self.rows(spec, spec.where, path)
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

    def numbers(self, spec: TaskSpec, path: str, seed: int) -> NumberTask:
        """The same of a task whose label is a number."""
        places = self.rows(spec, spec.where, path)
        column = self._labels(spec, places, path)
        values = pd.to_numeric(column, errors="coerce").astype(float)
        finite = values.abs() < np.inf
        if not finite.all():
            raise _unlabelled(f"{path}.label", "must have a finite number in every row.", ~finite)
        task = NumberTask(spec.name, places + self.offset[spec.dataset], values.to_numpy())
        return _corrupted(task, spec, seed)

    def _labels(self, spec: TaskSpec, places: np.ndarray, path: str) -> "pd.Series[Any]":
        dataset = self.dataset(spec.dataset, f"{path}.dataset")
        if spec.label in dataset.features:
            rule = "must not be among what the model reads."
            remedy = f"Put it in the `labels` of the dataset {spec.dataset}."
            raise InputError([Fault(f"{path}.label", rule, spec.label, remedy)])
        return self._column(dataset.columns.iloc[places], spec.label, f"{path}.label")

    @staticmethod
    def _column(columns: pd.DataFrame, name: str, path: str) -> "pd.Series[Any]":
        if name not in columns:
            raise InputError(
                [Fault(path, f"must be one of {', '.join(map(str, columns.columns))}.", name)]
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
    return InputError([Fault(path, rule, f"none in row {rows}", remedy)])
