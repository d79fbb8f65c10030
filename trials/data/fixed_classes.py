"""Checks that all tasks have the same classes, if classes keep their order in every episode."""

import numpy as np

from fewshot.errors.inputs import ErrorDetail
from trials.contract import Recipe
from trials.data.sources import Sources

_SHOWN = 5


def classes_that_differ(recipe: Recipe, sources: Sources) -> list[ErrorDetail]:
    """One error for each task whose classes are not the `way` classes of the first task."""
    found = {
        f"tasks.{split}.{spec.name}": tuple(
            np.unique(
                sources.labels(spec, f"tasks.{split}.{spec.name}")[
                    sources.rows(spec, spec.where, f"tasks.{split}.{spec.name}")
                ]
            )
        )
        for split, specs in recipe.tasks.items()
        for spec in specs
        if not spec.regresses
    }
    first = next(iter(found.values()), ())
    wanted = f"must have the {recipe.way} classes that all tasks have"
    known = ", ".join(map(str, first[:_SHOWN]))
    return [
        ErrorDetail(
            place,
            f"{wanted}, with `episodes.fixed_classes`; the first task has {known}.",
            ", ".join(map(str, classes[:_SHOWN])) + (", .." if len(classes) > _SHOWN else ""),
            "Name classes the same in all tasks, exclude rows with `where`, or set `way`.",
        )
        for place, classes in found.items()
        if classes != first or len(classes) != recipe.way
    ]
