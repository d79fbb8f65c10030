"""The classes that all tasks have, if classes keep their order in every episode."""

import numpy as np

from fewshot.errors.inputs import ErrorDetail
from trials.contract import Recipe
from trials.data.sources import Sources

_SHOWN = 5


def classes_that_differ(recipe: Recipe, sources: Sources) -> list[ErrorDetail]:
    """One error for each task whose classes are not the `way` classes of the first task."""
    found = _classes(recipe, sources)
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


def fixed_classes(recipe: Recipe, sources: Sources | None) -> tuple[str, ...]:
    """The classes that all tasks have, in their order; empty if their order is random."""
    if not recipe.fixed_classes or sources is None:
        return ()
    return next(iter(_classes(recipe, sources).values()), ())


def _classes(recipe: Recipe, sources: Sources) -> dict[str, tuple[str, ...]]:
    """The classes of each task, by its path in the config, in the order of their numbers."""
    return {
        f"tasks.{split}.{spec.name}": tuple(
            str(name)
            for name in np.unique(
                sources.labels(spec, f"tasks.{split}.{spec.name}")[
                    sources.rows(spec, spec.where, f"tasks.{split}.{spec.name}")
                ]
            )
        )
        for split, specs in recipe.tasks.items()
        for spec in specs
        if not spec.regresses
    }
