"""The MLflow record of a search, from its start to its end."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from fewshot.errors.inputs import input_error
from fewshot.tasks.files import write_text
from orchestrator.config.plan import Plan
from orchestrator.record import identity
from orchestrator.record.home import Home
from orchestrator.record.search_records import SearchRecords
from orchestrator.record.starts import note_sending
from orchestrator.results.explanation.explanation import explained
from orchestrator.results.explanation.files import NOTHING, write_explanation
from orchestrator.results.leaderboard import Summary, summarise
from orchestrator.search.failures import SearchFailed
from orchestrator.search.loop import Stopped
from orchestrator.tracking.mlflow_runs import OutboxRecorder
from orchestrator.tracking.recorder import Recorder
from orchestrator.tracking.sending import mlflow_sender as tracking
from orchestrator.tracking.sending import outbox

# A finished search waits for MLflow until this many seconds pass without progress.
_DRAIN_SECONDS = 60.0
# `resent` waits longer: it may have to create MLflow's database first.
_RESENT_SECONDS = 180.0
# Seconds between two checks, during this wait, whether it should stop.
_POLL_SECONDS = 0.5
# A stopped search waits this many seconds for MLflow: after one signal, and after a second one.
_STOP_SECONDS, _STOP_AT_ONCE_SECONDS = 10.0, 2.0


def recorder_of(home: Home, plan: Plan, own: identity.Identity) -> OutboxRecorder:
    """The recorder of a search, whose outbox a thread empties into MLflow."""
    return tracking.recorder(home.search(plan.name), home.tracking_uri, own.id)


def resent(
    name: str,
    home: Home,
    should_stop: Callable[[], bool] = lambda: False,
    waiting: Callable[[int], None] = lambda runs_left: None,
) -> bool:
    """Write the whole record of a search to MLflow again, wherever MLflow is now; as `drained`.

    Runs that are there are kept, and those that are missing are created: calling it twice leaves
    the same runs. waiting: called twice a second with the number of runs that are left.

    Raises InputError if there is no such search, if another process runs it, or if its record is
    gone.
    """
    own = identity.identity_of(home, name) if name in home.searches() else None
    if own is None:
        raise home.unknown(name)
    path = home.search(name) / outbox.FILE
    if not path.exists():
        remedy = "Restore it from a backup; the study and its models are not affected."
        raise input_error("NAME", "is a search whose record is gone.", str(path), remedy)
    with home.owned(name):
        recorder = tracking.resending_recorder(home.search(name), home.tracking_uri, own.id)
        return drained(
            recorder,
            should_stop,
            lambda: waiting(recorder.runs_left()),
            patience=_RESENT_SECONDS,
        )


def drained(
    recorder: Recorder,
    should_stop: Callable[[], bool],
    waiting: Callable[[], None] = lambda: None,
    patience: float | None = None,
) -> bool:
    """Wait until MLflow has received all events; returns False if it makes no progress.

    waiting: called twice a second meanwhile. patience: seconds without progress, 60 if None.

    Raises Stopped if `should_stop` returns true.
    """
    patience = _DRAIN_SECONDS if patience is None else patience
    try:
        left, waited = recorder.backlog(), 0.0
        while not recorder.drain(_POLL_SECONDS):
            if should_stop():
                raise Stopped
            waiting()
            waited = 0.0 if recorder.backlog() < left else waited + _POLL_SECONDS
            left = recorder.backlog()
            if waited >= patience:
                return False
        return True
    finally:
        recorder.close()


@contextmanager
def recorded(
    recorder: OutboxRecorder, plan: Plan, records: SearchRecords, home: Home
) -> Iterator[None]:
    """Keep the MLflow run of the search itself open, and end it with the state of the search."""
    weights = plan.space.decode(plan.space.rate_design(1, 0)[0])[1]
    # MLflow keeps the first value of a parameter, so an added number of trials is a tag.
    former = records.search.notes.get(identity.FORMER, ())
    tags = {"fewtune.trials": str(plan.trials)} if former else {}
    recorder.search_started(
        name=plan.name,
        experiment="fewtune",
        params={
            "trials": former[0] if former else plan.trials,
            "seed": plan.seed,
            "learner": plan.recipe.learner.name,
            "model": plan.recipe.model.name,
            "training_tasks": len(weights),
        },
        tags={"fewtune.recipe": plan.recipe.fingerprint, **tags},
        time=time.time(),
    )
    try:
        yield
    except BaseException as error:
        stopped = isinstance(error, Stopped | KeyboardInterrupt)
        try:
            _end(recorder, plan, records, home, "stopped" if stopped else "failed")
            recorder.drain(_patience(error))
        finally:
            recorder.close()
        raise
    _end(recorder, plan, records, home, "complete")


def _patience(error: BaseException) -> float:
    """Seconds to wait for MLflow when a search ends with `error`.

    After failed trials it is the full time, because MLflow shows why they failed.
    """
    if isinstance(error, KeyboardInterrupt):
        return _STOP_AT_ONCE_SECONDS
    return _DRAIN_SECONDS if isinstance(error, SearchFailed) else _STOP_SECONDS


def _end(
    recorder: OutboxRecorder,
    plan: Plan,
    records: SearchRecords,
    home: Home,
    state: Literal["complete", "stopped", "failed"],
) -> None:
    # Imported here, as a search needs nothing of Plotly before its end.
    from orchestrator.results.report.report import write_at_end

    folder = home.search(plan.name)
    summary = explained(summarise(plan.name, records), lambda: plan, records, folder)
    metrics = {"occupancy": summary.occupancy}
    if summary.best is not None:
        metrics["score"] = summary.best.score.mean
    if summary.difference is not None:
        metrics["test/gain" if summary.test else "val/gain"] = summary.difference.mean
        metrics |= {
            f"test/{name}_{summary.measure}": value.mean for name, value in summary.test.items()
        }
    result = home.search(plan.name) / "summary.json"
    write_text(result, json.dumps(summary.to_dict(), indent=2))
    if state == "complete":
        note_sending(records.search, recorder.sending_seconds, recorder.runs_left())
    # A search that was stopped ends within seconds; it is explained when it has ended.
    why = write_explanation(summary, home.search(plan.name)) if state == "complete" else NOTHING
    report = write_at_end(summary, records, home) if state != "stopped" else []
    recorder.search_ended(
        state=state,
        metrics={name: value for name, value in metrics.items() if value == value},
        artifacts=[home.config(plan.name), result, *report],
        tables=why.tables,
        tags=why.tags,
        answer=str(summary),
        best=_best_key(summary) if state == "complete" else "",
        time=time.time(),
    )


def _best_key(summary: Summary) -> str:
    """The key of the trial whose model is exported; empty if that is the untrained model."""
    best = summary.best
    return "" if best is None or best.number is None else f"search-{best.number:04d}"
