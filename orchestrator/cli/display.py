"""The display of searches in a terminal: their progress, leaderboards, a list."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from orchestrator.api import Search
from orchestrator.progress import STAGES, progress_of
from orchestrator.record.search_records import SearchRecords
from orchestrator.results.leaderboard import Summary
from orchestrator.results.listing import ListedSearch
from orchestrator.results.retrained import Finalist
from orchestrator.results.returns import Returns, header
from orchestrator.search.durations import duration
from orchestrator.search.finals.intervals import Interval

# Seconds between lines where the output is not a terminal.
_LINE_SECONDS = 15.0
# Counting thousands of trials at every report would slow the search down.
_SHOW_SECONDS = 0.2


class ProgressDisplay:
    """Shows the progress of a search: a bar in a terminal, elsewhere a line every 15 seconds."""

    def __init__(self, console: Console, search: Search) -> None:
        self._console, self._search = console, search
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._bar = self._progress.add_task("", total=None, note="")
        self._stage, self._printed, self._shown = "", 0.0, 0.0

    @property
    def started(self) -> bool:
        """Whether anything has been recorded that could be resumed."""
        return self._stage not in ("", "data")

    def __enter__(self) -> "ProgressDisplay":
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def __call__(self, stage: str, records: SearchRecords | None) -> None:
        """Called after every change of the records."""
        now = time.monotonic()
        if stage == self._stage and now - self._shown < _SHOW_SECONDS:
            return
        self._shown = now
        if stage != self._stage:  # when the search runs, it knows how many trials it has
            self._plan = self._search.plan
        done, total, note = progress_of(stage, records, self._plan, self._search.runs_left)
        self._progress.update(
            self._bar, description=STAGES[stage], completed=done, total=total, note=note
        )
        due = time.monotonic() - self._printed > _LINE_SECONDS
        if not self._console.is_terminal and (stage != self._stage or due):
            count = f" {done}/{total}" if total else ""
            self._console.print(f"{STAGES[stage]}{count} {note}".rstrip())
            self._printed = time.monotonic()
        self._stage = stage


def leaderboard(summary: Summary) -> Table:
    """The finalists, best first; before there are any, the best trials of the search."""
    table = Table(title=f"{summary.name}: {_counts(summary)}", title_justify="left")
    rates = sorted({name for row in summary.top for name in row.notes["hyperparameters"]})
    choices = any(trial.notes.get("choices") for trial in summary.top)
    table.add_column("trial", justify="right")
    table.add_column("score", justify="right")
    if summary.finalists:
        table.add_column("retrained, 95 % interval", justify="right")
    if choices:
        table.add_column("choices")
    for name in rates:
        table.add_column(name, justify="right")
    table.add_column("task weights")
    if summary.finalists:
        for finalist in summary.finalists:
            best = finalist is summary.best
            table.add_row(*_finalist(finalist, rates, choices, best), style="bold" if best else "")
    else:
        for trial in summary.top:
            cells = _settings(trial.notes, rates, choices)
            weights = top_task_weights(trial.notes["task_weights"])
            table.add_row(str(trial.number), f"{trial.score:.3f}", *cells, weights)
    return table


def returns_table(returns: Sequence[Returns]) -> Table:
    """Mean returns in the test worlds after each step of adaptation."""
    title = "mean returns in the test worlds after steps of adaptation"
    table = Table(title=title, title_justify="left")
    table.add_column("world")
    table.add_column("policy")
    for name in header(returns):
        table.add_column(name, justify="right")
    for each in returns:
        table.add_row(escape(each.task), each.model, *each.cells)
    return table


def _settings(found: Mapping[str, Any], rates: Sequence[str], choices: bool) -> list[str]:
    """The cells of the searched options, if there are any, and of the rates."""
    values = found["hyperparameters"]
    shown = {n: f"{v:.3g}" if isinstance(v, float) else str(v) for n, v in values.items()}
    cells = [shown.get(name, "-") for name in rates]
    chosen = [f"{name} {value}" for name, value in found.get("choices", {}).items()]
    return [", ".join(chosen) or "-", *cells] if choices else cells


def _counts(summary: Summary) -> str:
    parts = [f"{n} {state}" for state, n in summary.trials.items() if n]
    if not math.isnan(summary.occupancy):
        lanes = "lanes" if summary.lanes is None else f"{summary.lanes} lanes"
        parts.append(f"{lanes} {100 * summary.occupancy:.0f} % occupied")
    return ", ".join(parts)


def _finalist(finalist: Finalist, rates: Sequence[str], choices: bool, best: bool) -> list[str]:
    name = "untrained" if finalist.number is None else str(finalist.number)
    if finalist.role == "uniform" and math.isnan(finalist.search_score):
        name = f"rates of {name}"
    score, weights = finalist.search_score, top_task_weights(finalist.task_weights)
    found = {"hyperparameters": finalist.hyperparameters, "choices": finalist.choices}
    return [
        f"{name}{' *' if best else ''}",
        "-" if math.isnan(score) else f"{score:.3f}",
        _interval(finalist.score),
        *_settings(found, rates, choices),
        f"{weights} (reference)" if finalist.role == "uniform" else weights,
    ]


def _interval(value: Interval) -> str:
    if math.isnan(value.low):
        return f"{value.mean:.3f}"
    return f"{value.mean:.3f} ({value.low:.3f} to {value.high:.3f})"


def top_task_weights(weights: Mapping[str, float], n: int = 4) -> str:
    """The `n` largest task weights, and the number of tasks with weight zero."""
    if not weights:
        return "-"
    if len({round(w, 9) for w in weights.values()}) == 1:
        return "uniform"
    ranked = sorted(weights.items(), key=lambda item: -item[1])
    zeros = sum(w == 0 for w in weights.values())
    parts = [f"{task} {w:.2f}" for task, w in ranked[:n] if w > 0]
    more = len(weights) - len(parts) - zeros
    parts += [f"{more} more"] if more else []
    parts += [f"{zeros} at zero"] if zeros else []
    return ", ".join(parts)


def search_list(searches: Sequence[ListedSearch]) -> Table:
    """One row for each search."""
    table = Table()
    for name in ("search", "state", "trials", "best score", "age"):
        table.add_column(name, justify="left" if name in ("search", "state") else "right")
    for found in searches:
        best = "-" if found.best is None else f"{found.best:.3f}"
        trials = f"{found.trials}/{found.planned}"
        table.add_row(found.name, found.state, trials, best, duration(found.age))
    return table
