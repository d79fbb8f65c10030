"""The explanation of a search in a terminal."""

import math
from collections.abc import Iterator, Mapping

from rich.markup import escape
from rich.table import Table

from orchestrator.results.explanation.explanation import Explanation, TaskEffect
from orchestrator.search.finals.intervals import Interval

_STYLES = {"helps": "green", "harms": "red", "not needed": "yellow", "cannot be told": ""}
_MARKS = {True: "[green]passed[/green]", False: "[yellow]warning[/yellow]", None: "unknown"}
_SHOWN = 12  # importances


def why(explanation: Explanation) -> Iterator[Table | str]:
    """What `fewtune show --why` prints: effects, importances, health checks."""
    if explanation.effects:
        yield _effects(explanation)
        note = explanation.effects[0].effect.note
        if note:
            yield f"No effects: {escape(note)}."
        if explanation.effects[0].on_validation:
            yield _on_validation(explanation)
    else:
        yield "The task weights are not searched, so tasks have no effects."
    if explanation.importances:
        yield _importances(explanation.importances)
    for check in explanation.checks:
        yield f"{_MARKS[check.passed]} {check.name}: {escape(check.text)}"


def _effects(explanation: Explanation) -> Table:
    title = "effect of a share of .1 on the score, in points (95 % interval)"
    table = Table(title=title, title_justify="left")
    table.add_column("training task")
    table.add_column("effect", justify="right")
    table.add_column("verdict")
    table.add_column("in best trial", justify="right")
    table.add_column("as good", justify="right")
    for row in explanation.effects:
        verdict = f"[{style}]{row.verdict}[/{style}]" if (style := _STYLES[row.verdict]) else ""
        weight = "-" if row.weight is None else f"{row.weight:.2f}"
        good = "-" if row.good is None else f"{row.good[0]:.2f} to {row.good[1]:.2f}"
        cells = _points(row.effect), verdict or row.verdict, weight, good
        table.add_row(escape(_name(row)), *cells)
    return table


def _name(row: TaskEffect) -> str:
    return row.task if len(row.tasks) == 1 else f"{row.task} ({len(row.tasks)} tasks)"


def _points(value: Interval) -> str:
    if math.isnan(value.mean):
        return "-"
    return f"{100 * value.mean:+.1f} ({100 * value.low:+.1f} to {100 * value.high:+.1f})"


def _on_validation(explanation: Explanation) -> Table:
    """One row for each validation task; a star marks an interval that excludes zero."""
    title = "effect on each validation task, in points (*: the 95 % interval excludes 0)"
    table = Table(title=title, title_justify="left")
    table.add_column("validation task")
    for row in explanation.effects:
        table.add_column(escape(row.task), justify="right")
    for task in explanation.effects[0].on_validation:
        found = [row.on_validation[task] for row in explanation.effects]
        cells = [f"{100 * i.mean:+.1f}{'*' if i.low > 0 or i.high < 0 else ''}" for i in found]
        table.add_row(escape(task), *cells)
    return table


def _importances(values: Mapping[str, float]) -> Table:
    table = Table(title="importance of the parameters (PED-ANOVA)", title_justify="left")
    table.add_column("parameter")
    table.add_column("part", justify="right")
    for name, part in list(values.items())[:_SHOWN]:
        table.add_row(escape(name), f"{100 * part:.0f} %")
    return table
