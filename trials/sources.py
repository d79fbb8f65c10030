"""From the recipe's words to tensors: which rows of which dataset are a task."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fewshot.faults import Fault, InputError
from fewshot.tasks.base import Dataset
from fewshot.tasks.datasets import load_dataset
from fewshot.tasks.pool import Task
from trials.contract import Component, TaskSpec


class Sources:
    """All datasets of a recipe, and their inputs as one tensor.

    inputs: (n, *features); `offset[name]` is the row at which a dataset begins.
    """

    def __init__(self, datasets: Mapping[str, Component], cache: Path) -> None:
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

    def task(self, spec: TaskSpec, path: str, seed: int) -> Task:
        """The task that `spec` describes; `seed` decides how a shuffled one is shuffled."""
        places = self.rows(spec, spec.where, path)
        columns = self.dataset(spec.dataset, f"{path}.dataset").columns.iloc[places]
        labels = pd.factorize(self._column(columns, spec.label, f"{path}.label"), sort=True)[0]
        groups = np.zeros(len(places), dtype=np.int64)
        if spec.within is not None:
            within = self._column(columns, spec.within, f"{path}.within")
            groups = pd.factorize(within, sort=True)[0]
        task = Task(spec.name, places + self.offset[spec.dataset], labels, groups)
        return task.shuffled(seed) if spec.corrupt == "shuffle" else task

    @staticmethod
    def _column(columns: pd.DataFrame, name: str, path: str) -> "pd.Series[Any]":
        if name not in columns:
            raise InputError(
                [Fault(path, f"must be one of {', '.join(map(str, columns.columns))}.", name)]
            )
        return columns[name]
