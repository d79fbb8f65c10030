"""What a search looks like in a terminal."""

import math
import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from orchestrator.config.plan import Plan
from orchestrator.record.search_records import SearchRecords
from orchestrator.record.study import StudiedTrial, StudyRecord
from orchestrator.results.leaderboard import Finalist, Summary
from orchestrator.search.intervals import Interval

_SAYS = {
    "data": "reading the data",
    "start": "starting the workers",
    "search": "searching",
    "final": "training the finalists again",
    "test": "looking at the test tasks",
    "record": "handing the record to MLflow",
}
# Where nobody watches, a line now and then is enough.
_LINE_SECONDS = 15.0
# Counting thousands of trials at every report would slow the search down.
_SHOW_SECONDS = 0.2


class ProgressDisplay:
    """Shows how far a search is: a bar in a terminal, a line now and then elsewhere."""

    def __init__(self, console: Console, plan: Plan) -> None:
        self._console, self._plan = console, plan
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
        self._stage, self._said, self._shown = "", 0.0, 0.0

    @property
    def begun(self) -> bool:
        """Whether anything was recorded that one could go on from."""
        return self._stage not in ("", "data")

    def __enter__(self) -> "ProgressDisplay":
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def __call__(self, stage: str, records: SearchRecords | None) -> None:
        """To be called whenever something has changed."""
        now = time.monotonic()
        if stage == self._stage and now - self._shown < _SHOW_SECONDS:
            return
        self._shown = now
        done, total, note = self._status(stage, records)
        self._progress.update(
            self._bar, description=_SAYS[stage], completed=done, total=total, note=note
        )
        late = time.monotonic() - self._said > _LINE_SECONDS
        if not self._console.is_terminal and (stage != self._stage or late):
            count = f" {done}/{total}" if total else ""
            self._console.print(f"{_SAYS[stage]}{count} {note}".rstrip())
            self._said = time.monotonic()
        self._stage = stage

    def _status(self, stage: str, records: SearchRecords | None) -> tuple[int, int | None, str]:
        plan = self._plan
        if stage == "search" and records is not None:
            trials = records.search.trials()
            best = max((t.score for t in trials if not math.isnan(t.score)), default=math.nan)
            note = "" if math.isnan(best) else f"best score {best:.3f}"
            return _ended(trials), plan.trials, note
        if stage in ("final", "test") and records is not None:
            record: StudyRecord = getattr(records, stage)
            total = (plan.finalists + 1) * plan.seeds if stage == "final" else 2 * plan.seeds
            return _ended(record.trials()), total, ""
        return 0, None, ""


def _ended(trials: Sequence[StudiedTrial]) -> int:
    return sum(t.state in ("complete", "pruned", "failed") for t in trials)


def leaderboard(summary: Summary) -> Table:
    """The finalists, best first, or as long as there are none the best trials of the search."""
    table = Table(title=f"{summary.name}: {_counts(summary)}", title_justify="left")
    rates = sorted({name for row in summary.top for name in row.notes["hyperparameters"]})
    table.add_column("trial", justify="right")
    table.add_column("score", justify="right")
    if summary.finalists:
        table.add_column("again, 95 % interval", justify="right")
    for name in rates:
        table.add_column(name, justify="right")
    table.add_column("task weights")
    if summary.finalists:
        for finalist in summary.finalists:
            best = summary.best is not None and finalist.number == summary.best.number
            table.add_row(*_finalist(finalist, rates, best), style="bold" if best else "")
    else:
        for trial in summary.top:
            rate_cells = [f"{trial.notes['hyperparameters'][name]:.3g}" for name in rates]
            weights = heaviest(trial.notes["task_weights"])
            table.add_row(str(trial.number), f"{trial.score:.3f}", *rate_cells, weights)
    return table


def _counts(summary: Summary) -> str:
    said = [f"{n} {state}" for state, n in summary.trials.items() if n]
    if not math.isnan(summary.occupancy):
        lanes = "lanes" if summary.lanes is None else f"{summary.lanes} lanes"
        said.append(f"{lanes} {100 * summary.occupancy:.0f} % occupied")
    return ", ".join(said)


def _finalist(finalist: Finalist, rates: Sequence[str], best: bool) -> list[str]:
    name = "untrained" if finalist.number is None else str(finalist.number)
    found, weights = finalist.search_score, heaviest(finalist.task_weights)
    return [
        f"{name}{' *' if best else ''}",
        "-" if math.isnan(found) else f"{found:.3f}",
        interval(finalist.score),
        *(
            f"{finalist.hyperparameters[rate]:.3g}" if rate in finalist.hyperparameters else "-"
            for rate in rates
        ),
        f"{weights} (baseline)" if finalist.role == "uniform" else weights,
    ]


def interval(value: Interval) -> str:
    """A mean and its interval."""
    if math.isnan(value.low):
        return f"{value.mean:.3f}"
    return f"{value.mean:.3f} ({value.low:.3f} to {value.high:.3f})"


def heaviest(weights: dict[str, float] | object, n: int = 4) -> str:
    """The largest weights, and how many tasks are off."""
    if not isinstance(weights, dict) or not weights:
        return "-"
    if len({round(w, 9) for w in weights.values()}) == 1:
        return "uniform"
    ranked = sorted(weights.items(), key=lambda item: -item[1])
    off = sum(w == 0 for w in weights.values())
    said = [f"{task} {w:.2f}" for task, w in ranked[:n] if w > 0]
    more = len(weights) - len(said) - off
    return ", ".join(said) + (f", {more} more" if more else "") + (f", {off} off" if off else "")
