"""Checks what a training function yields."""

import math
from collections.abc import Collection, Mapping
from typing import Any


class BadScores(Exception):
    """The yielded value is not a score for each task; the text says why."""


def checked_scores(
    yielded: Any, needed: Collection[str], known: Collection[str]
) -> dict[str, float]:
    """The scores as floats.

    needed: tasks that must have a score. known: other tasks that may have one.

    Raises BadScores.
    """
    if not isinstance(yielded, Mapping):
        raise BadScores(f"it yielded {_short(yielded)} instead of {{validation task: score}}")
    missing = [task for task in needed if task not in yielded]
    if missing:
        raise BadScores(f"it yielded no score for {_listed(missing)}")
    unknown = [str(task) for task in yielded if task not in needed and task not in known]
    if unknown:
        tasks = ", ".join([*needed, *known])
        raise BadScores(f"it yielded a score for {_listed(unknown)}; the tasks are {tasks}")
    return {str(task): _score(task, value) for task, value in yielded.items()}


def _score(task: str, value: Any) -> float:
    """A number, or an array or tensor of one number, as a finite float."""
    try:
        if isinstance(value, bool | str | bytes):
            raise TypeError
        score = float(value.item() if hasattr(value, "item") else value)
    except Exception:  # an array of several numbers raises errors of its library
        raise BadScores(f"it yielded {_short(value)} for {task}, which is not a number") from None
    if not math.isfinite(score):
        raise BadScores(f"diverged: it yielded {score} for {task}")
    return score


def _listed(tasks: Collection[str]) -> str:
    shown = list(tasks)[:3]
    return ", ".join(shown) + (", .." if len(tasks) > len(shown) else "")


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."
