"""Finds groups, such as people, that splits share: a model must not be scored on a group it knows.

The groups of a task are the values of its column `within`. All tasks on the same file are compared,
also those without `within`, because their rows belong to the same groups.

If each class of a classification task belongs to one group, as characters belong to an alphabet,
the group is not an individual, and splits may share it.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from fewshot.errors.inputs import ErrorDetail
from trials.contract import Recipe, TaskSpec
from trials.data.disjoint import Hashes, Sides, shared_rows
from trials.data.sources import Sources

_SPLITS = ("train", "validation", "test")
_REMEDY = (
    "Put all rows of a group into one split: with `split` of the dataset, or with `where`. "
    "`tasks.overlap: drop` leaves them out of the earlier split; `true` allows shared groups."
)


class GroupSides(NamedTuple):
    """The rows of the tasks on one file by split, and a hash (n,) of the group of each row."""

    column: str
    sides: Sides
    identity: Hashes
    names: "np.ndarray[Any, np.dtype[np.object_]]"  # of the groups, by row of `inputs`


def group_sides(recipe: Recipe, sources: Sources) -> Iterator[GroupSides]:
    """One for each column of groups of each file; raises InputError if rows can't be selected."""
    specs = [
        (split, spec)
        for split in _SPLITS
        for spec in recipe.tasks.get(split, ())
        if spec.function is None
    ]
    files = {spec.dataset: _file(sources, spec.dataset) for _, spec in specs}
    columns = dict.fromkeys(
        (files[spec.dataset], spec.within)
        for split, spec in specs
        if spec.within is not None and _individuals(sources, spec, f"tasks.{split}.{spec.name}")
    )
    for file, column in columns:
        names = np.full(len(sources.inputs), "", dtype=object)
        sides: dict[str, dict[str, np.ndarray]] = {split: {} for split in _SPLITS}
        for split, spec in specs:
            if files[spec.dataset] == file:
                place = f"tasks.{split}.{spec.name}"
                rows, groups = sources.groups(spec, str(column), place)
                names[rows] = groups
                sides[split][place] = rows
        identity = np.asarray(pd.util.hash_array(names), dtype=np.uint64)
        yield GroupSides(str(column), sides, identity, names)


def shared_groups(recipe: Recipe, sources: Sources) -> list[ErrorDetail]:
    """One error for each task that shares groups with a task of another split."""
    details = []
    for found in group_sides(recipe, sources):
        errors = shared_rows(found.sides, found.identity, partial(_named, found))
        details += [
            replace(
                error,
                rule=error.rule.replace("no example", f"no {found.column}"),
                found=str(error.found).replace(" of ", " examples of ", 1),
                remedy=_REMEDY if error.remedy else "",
            )
            for error in errors
        ]
    return details


def _named(found: GroupSides, row: int, twin: int) -> str:
    del twin  # a row of the same group
    return f"those of {found.column} {found.names[row]}"


def _file(sources: Sources, dataset: str) -> str:
    """What tells files apart: two datasets may read the same file."""
    return str(sources.parts[dataset].options.get("path", dataset))


def _individuals(sources: Sources, spec: TaskSpec, place: str) -> bool:
    """Whether a group is an individual: there are numbers, or groups have classes in common."""
    if spec.regresses:
        return True
    _, groups = sources.groups(replace(spec, where={}), str(spec.within), place)
    labels = sources.labels(spec, place)
    pairs = pd.DataFrame({"label": labels, "group": groups}).drop_duplicates()
    return bool(pairs["label"].duplicated().any())


def kept_of_groups(recipe: Recipe, sources: Sources) -> dict[str, np.ndarray]:
    """For each split a mask (n,) of the rows whose group no later split has."""
    kept: dict[str, np.ndarray] = {}
    for found in group_sides(recipe, sources):
        later = np.empty(0, dtype=found.identity.dtype)
        for split in reversed(_SPLITS):
            own = [found.identity[rows] for rows in found.sides[split].values()]
            on_file = found.names != ""
            mask = ~(np.isin(found.identity, later) & on_file)
            kept[split] = kept.get(split, np.ones(len(mask), dtype=bool)) & mask
            later = np.concatenate([later, *own])
    return kept
