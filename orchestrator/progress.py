"""A progress bar for a search that is run from Python, in a terminal or a notebook."""

import math
import time
from collections.abc import Sequence

from tqdm.auto import tqdm

from orchestrator.config.plan import Plan
from orchestrator.record.search_records import SearchRecords
from orchestrator.record.studies.study import StudiedTrial
from orchestrator.search.finals.finalists import role_of
from orchestrator.search.finals.retrainings import most_retrainings

STAGES = {
    "data": "reading the data",
    "start": "starting the workers",
    "search": "searching",
    "final": "retraining the finalists",
    "test": "scoring the test tasks",
    "record": "sending the record to MLflow",
    "end": "the search has ended",
}
_SECONDS = 0.2  # between updates: counting thousands of trials takes time


class ProgressBar:
    """A context manager that shows the bar; call `update` after every change of the records."""

    def __init__(self, plan: Plan, *, shown: bool) -> None:
        self._plan, self._shown = plan, shown
        self._stage, self._updated = "", 0.0

    def __enter__(self) -> "ProgressBar":
        self._bar = tqdm(total=1, disable=not self._shown)
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def update(
        self, stage: str, records: SearchRecords | None, runs_left: int | None = None
    ) -> None:
        now = time.monotonic()
        if not self._shown or (stage == self._stage and now - self._updated < _SECONDS):
            return
        self._stage, self._updated = stage, now
        done, total, note = progress_of(stage, records, self._plan, runs_left)
        self._bar.total, self._bar.n = total or 1, done
        self._bar.set_description(STAGES[stage], refresh=False)
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.refresh()


def progress_of(
    stage: str, records: SearchRecords | None, plan: Plan, runs_left: int | None = None
) -> tuple[int, int | None, str]:
    """Number of trials that have ended, number of all trials of the stage, and a note.

    runs_left: the number of runs that MLflow does not have yet, if the search waits for it.
    """
    if stage == "record" and runs_left is not None:
        return 0, None, f"{runs_left:,} run{'s' * (runs_left != 1)} left"
    if records is None or stage not in ("search", "final", "test", "end"):
        return 0, None, ""
    trials = (records.search if stage == "end" else getattr(records, stage)).trials()
    ended = [trial for trial in trials if trial.state != "running"]
    if stage == "final":
        return len(ended), *_retrainings(trials, plan)
    if stage == "test":
        return len(ended), max(len(trials), 2 * plan.seeds), ""
    best = max((t.score for t in ended if not math.isnan(t.score)), default=math.nan)
    note = "" if math.isnan(best) else f"best score {best:.3f}"
    return len(ended), len(ended) if stage == "end" else plan.trials, note


def _retrainings(trials: Sequence[StudiedTrial], plan: Plan) -> tuple[int, str]:
    """The number of retrainings that may be needed, and a note if some may not be."""
    started = {(role_of(t), t.notes["candidate"]) for t in trials}
    untrained = sum(role == "untrained" for role, _ in started)
    # More than `most` if the search got more trials: earlier finalists stay in the record.
    total = max(len(trials), untrained + most_retrainings(plan))
    n_uniform = sum(role == "uniform" for role, _ in started)
    rest = total - untrained - (plan.finalists + 1) * plan.seeds
    waits = rest > 0 and n_uniform < 2
    return total, f"{rest} of them only if a searched trial is the best" if waits else ""
