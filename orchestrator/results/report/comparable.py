"""Whether the test scores of two searches can be compared, and their difference."""

from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

from orchestrator.record.identity import leaves
from orchestrator.results.measures import TESTED, Measured, difference_bounds, measure_tables
from orchestrator.results.report.findings import Findings
from orchestrator.search.finals.intervals import Interval
from trials.contract import Recipe

_COUNTS = ("way", "shot", "query", "test_episodes", "imbalance")
_NAMES = {"name", "seed"}  # settings that differ between any two searches, or do not matter


def obstacles(a: Findings, b: Findings) -> list[str]:
    """Why the test scores of two searches can't be compared; empty if they can."""
    found = []
    one, two = a.plan.recipe, b.plan.recipe
    if one.tasks.get("test") != two.tasks.get("test"):
        found.append("their test tasks differ")
    elif _test_data(one) != _test_data(two):
        found.append("the data of their test tasks differ")
    elif _is_relative(one) and _folder(a) != _folder(b):
        found.append("the paths of their data are relative to different folders")
    for name in _COUNTS:
        if getattr(one, name) != getattr(two, name):
            found.append(f"their episodes differ in `{name}`")
    if one.seed != two.seed:
        found.append("their seeds differ, so their test episodes do")
    if a.summary.measure != b.summary.measure:
        found.append(f"one measures {a.summary.measure}, the other {b.summary.measure}")
    return found


def _test_data(recipe: Recipe) -> dict[str, Any]:
    return {
        task.dataset: recipe.datasets.get(task.dataset) for task in recipe.tasks.get("test", ())
    }


def _is_relative(recipe: Recipe) -> bool:
    used = {task.dataset for task in recipe.tasks.get("test", ())}
    paths = [recipe.datasets[name].options.get("path") for name in used if name in recipe.datasets]
    return any(
        isinstance(path, str) and not PurePath(path).is_absolute() and path[:1] not in "~$"
        for path in paths
        if path
    )


def _folder(found: Findings) -> Any:
    return found.records.search.notes.get("folder")


def difference_on_tests(a: Findings, b: Findings) -> Interval | None:
    """The best candidate of `b` minus that of `a` on the test tasks, in the measure of both.

    None if one of them has no tested candidate. Only for searches without `obstacles`.
    """
    tables = [_candidate(found) for found in (a, b)]
    ours, theirs = tables[1], tables[0]
    if ours is None or theirs is None or ours.by_task.shape[1] != theirs.by_task.shape[1]:
        return None
    seeds = min(len(ours.by_task), len(theirs.by_task))
    gain = ours.of_seeds(seeds).minus(theirs.of_seeds(seeds))
    return gain.interval(difference_bounds(a.summary.measure))


def _candidate(found: Findings) -> Measured | None:
    """Measures of the best candidate on the test tasks."""
    chosen = found.summary.candidate
    if chosen is None:
        return None
    tables = measure_tables(found.records.test.trials(), [chosen], found.summary.measure)
    return tables.get(TESTED["searched"])


def settings(a: Findings, b: Findings) -> Iterator[tuple[str, str, str]]:
    """Key and both values of every setting that differs; "not set" where one has none."""
    one, two = (dict(leaves(found.config_data)) for found in (a, b))
    for key in dict.fromkeys([*one, *two]):
        values = one.get(key, "not set"), two.get(key, "not set")
        if values[0] != values[1] and key not in _NAMES:
            yield key, _short(values[0]), _short(values[1])
    if a.plan.seed != b.plan.seed:
        yield "seed", str(a.plan.seed), str(b.plan.seed)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
