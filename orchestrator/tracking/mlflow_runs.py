"""The recorder of a search: it writes events that can safely be sent twice."""

import json
import math
import time as clock
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from fewshot.metrics import Estimate
from orchestrator.tracking.events import Kind, RunEvent, clean
from orchestrator.tracking.recorder import NO_TAGS, SearchState
from orchestrator.tracking.sending.outbox import Outbox
from trials.contract import AdaptationResult, Outcome, RungReport, TrialResult, TrialSpec
from trials.programs.untrained import is_untrained

_LONGEST_HOLD = 60.0  # seconds
_LONGEST_NOTE = 4000  # characters of a description; MLflow accepts 8000
STATUS: Mapping[Outcome | SearchState, str] = {
    "complete": "FINISHED",
    "pruned": "KILLED",
    "stopped": "KILLED",
    "failed": "FAILED",
}


class Sending(Protocol):
    """The part that sends the events of an outbox."""

    @property
    def rejected(self) -> int:
        """Number of events that will never be accepted."""

    @property
    def seconds(self) -> float:
        """The time in which runs were written; several at a time count several times."""

    def close(self) -> None: ...


class OutboxRecorder:
    """A `Recorder` that writes events to an outbox; a sender reads them from there."""

    def __init__(self, outbox: Outbox, sending: Sending | None = None) -> None:
        self._outbox = outbox
        self._sending = sending
        self._search = self._experiment = ""

    @property
    def rejected(self) -> int:
        """Number of events that this process rejected; MLflow will never show them."""
        return self._outbox.rejected + (self._sending.rejected if self._sending else 0)

    @property
    def sending_seconds(self) -> float:
        """The time in which this process wrote runs to MLflow."""
        return self._sending.seconds if self._sending else 0.0

    def search_started(
        self,
        *,
        name: str,
        experiment: str,
        params: Mapping[str, object],
        tags: Mapping[str, str],
        time: float,
    ) -> None:
        self._search, self._experiment = name, experiment
        attempt = self._outbox.count("search/started")
        self._record(
            f"search/started/{time!r}",
            time=time,
            status="RUNNING",
            params=_as_params(params),
            tags={**tags, "fewtune.state": "running", "fewtune.attempt": str(attempt)},
        )

    def trial_started(self, spec: TrialSpec, *, time: float, origin: str = "") -> None:
        tags = {"fewtune.origin": origin} if origin else {}
        self._record(
            f"{spec.key}/started/{spec.attempt}",
            trial=spec.key,
            name=run_name(spec),
            time=time,
            status="RUNNING",
            params=_as_params(_params_of(spec)),
            tags={"fewtune.state": "running", "fewtune.attempt": str(spec.attempt), **tags},
        )

    def reported(self, report: RungReport) -> None:
        self._record(
            f"{report.key}/step/{report.step}",
            trial=report.key,
            time=report.time,
            step=report.step,
            metrics=_scored(report.score, report.metrics),
        )
        if report.key.startswith("search-"):  # the untrained model is scored before workers start
            self._outbox.release()

    def trial_interrupted(self, spec: TrialSpec, *, time: float) -> None:
        self._record(
            f"{spec.key}/interrupted/{spec.attempt}",
            trial=spec.key,
            time=time,
            status="KILLED",
            tags={"fewtune.state": "interrupted"},
        )

    def trial_ended(self, result: TrialResult, *, state: Outcome, note: str = "") -> None:
        for adaptation in result.adaptations:
            self._adapted(result, adaptation)
        tags: dict[str, str] = {"fewtune.state": state}
        if note or result.traceback:
            tags["mlflow.note.content"] = _described(note, result.traceback)
        if result.error:
            tags["fewtune.error"] = result.error[:500]
        # One end per start: a restarted trial ends again.
        self._record(
            f"{result.key}/ended/{self._outbox.count(f'{result.key}/started')}",
            trial=result.key,
            time=result.time or clock.time(),
            status=STATUS[state],
            tags=tags,
        )

    def worker_load(self, worker: int, load: Mapping[str, float], *, time: float) -> None:
        # MLflow's page shows metrics named `system/...` on a tab of their own, over time.
        metrics = {f"system/worker_{worker}/{name}": value for name, value in load.items()}
        self._record(f"search/load/{worker}/{time!r}", time=time, metrics=_as_metrics(metrics))

    def search_ended(
        self,
        *,
        state: SearchState,
        metrics: Mapping[str, float],
        artifacts: Sequence[Path],
        time: float,
        tables: Sequence[Path] = (),
        tags: Mapping[str, str] = NO_TAGS,
        answer: str = "",
        best: str = "",
    ) -> None:
        self._mark(best, answer, time)
        described = {"mlflow.note.content": answer[:_LONGEST_NOTE]} if answer else {}
        self._record(
            f"search/ended/{self._outbox.count('search/started')}",
            time=time,
            status=STATUS[state],
            metrics=_as_metrics(metrics),
            tags={**tags, **_table_tags(tables), **described, "fewtune.state": state},
            artifacts=tuple(str(path.resolve()) for path in (*artifacts, *tables)),
        )

    def _mark(self, best: str, answer: str, time: float) -> None:
        """Mark the best trial; a trial that an earlier end of the search marked loses the mark."""
        marked = [id.rpartition("/")[2] for id in self._outbox.ids("search/best/")]
        if best == (marked[-1] if marked else ""):
            return
        if marked and marked[-1]:
            tags = {"fewtune.best": "no", "mlflow.runName": marked[-1]}
            tags["mlflow.note.content"] = "The best trial before the search got more trials."
            self._record(f"search/former/{len(marked)}", trial=marked[-1], time=time, tags=tags)
        tags = {"fewtune.best": "yes", "mlflow.runName": f"{best} (best)"}
        tags["mlflow.note.content"] = f"The best trial: its model is exported. {answer}"
        tags = {name: value[:_LONGEST_NOTE] for name, value in tags.items()} if best else {}
        self._record(f"search/best/{len(marked)}/{best}", trial=best, time=time, tags=tags)

    def backlog(self) -> int:
        return self._outbox.backlog()

    def send_after_first_report(self) -> None:
        """Send nothing until a searched trial reports, for a minute at most.

        Importing MLflow and opening its database take seconds of CPU time, which the start of the
        workers needs.
        """
        self._outbox.hold(_LONGEST_HOLD)

    def runs_left(self) -> int:
        """Number of runs with events that have not been sent yet."""
        return self._outbox.runs_left()

    def drain(self, timeout: float) -> bool:
        return self._outbox.drained(timeout)

    def close(self) -> None:
        self._outbox.close()
        if self._sending:
            self._sending.close()

    def _adapted(self, result: TrialResult, adaptation: AdaptationResult) -> None:
        stage, _, number = result.key.rpartition("-")
        params = {
            "task": adaptation.task,
            "split": adaptation.split,
            "stage": stage,
            "trial_number": int(number),
        }
        self._record(
            f"{result.key}/{adaptation.split}/{adaptation.task}",
            trial=result.key,
            below=f"{adaptation.split}/{adaptation.task}",
            name=f"{adaptation.task} ({result.key})",
            start=adaptation.time - adaptation.seconds,
            time=adaptation.time,
            step=result.step,
            status="FINISHED",
            params=_as_params(params),
            metrics=_scored(adaptation.score, adaptation.metrics),
            tags={
                "fewtune.state": "complete",
                "fewtune.attempt": str(max(0, self._outbox.count(f"{result.key}/started/") - 1)),
            },
        )

    def _record(self, id: str, *, trial: str = "", below: str = "", **what: Any) -> None:
        if not self._search:
            raise RuntimeError("`search_started` must be called before anything else is recorded.")
        parts = [part for part in (self._search, trial, below) if part]
        kinds: tuple[Kind, ...] = ("search", "trial", "adaptation")
        event = RunEvent(
            id=id,
            search=self._search,
            experiment=self._experiment,
            key="/".join(parts),
            kind=kinds[len(parts) - 1],
            parent="/".join(parts[:-1]) or None,
            **{"name": parts[-1], **what},
        )
        # Not with `asdict`: its deep copies took a quarter of the driver's time.
        self._outbox.append({name: getattr(event, name) for name in RunEvent.__slots__})


def run_name(spec: TrialSpec) -> str:
    """The name of a trial's run in MLflow."""
    return f"untrained ({spec.stage})" if is_untrained(spec.recipe) else spec.key


def _params_of(spec: TrialSpec) -> dict[str, object]:
    weights = {f"lambda/{task}": weight for task, weight in spec.task_weights.items()}
    params = {"trial_number": spec.number, "stage": spec.stage, "seed": spec.seed}
    return {**params, **spec.choices, **spec.hyperparameters, **weights}


def _table_tags(tables: Sequence[Path]) -> dict[str, str]:
    """The tag by which MLflow knows which artifacts are tables, as `mlflow.log_table` sets it."""
    listed = [{"path": path.name, "type": "table"} for path in tables]
    return {"mlflow.loggedArtifacts": json.dumps(listed)} if tables else {}


def _described(note: str, traceback: str | None) -> str:
    """A run's description; MLflow shows it as Markdown and accepts at most 8000 characters."""
    if not traceback:
        return note
    return f"{note[:1000]}\n\n```\n{traceback[-6500:]}\n```"


def _as_params(values: Mapping[str, object]) -> dict[str, str]:
    """Parameters as text. Rates get their log10 too: MLflow's charts have no logarithmic axis."""
    params = {}
    for name, value in values.items():
        params[clean(name)] = f"{value:.6g}" if isinstance(value, float) else str(value)
        if name.startswith("lr/") and isinstance(value, int | float) and value > 0:
            params[clean(f"log10_{name}")] = f"{math.log10(value):.4f}"
    return params


def _as_metrics(values: Mapping[str, float]) -> dict[str, float]:
    return {clean(name): float(value) for name, value in values.items()}


def _scored(score: Estimate, metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics and the score.

    If the score has a standard error over episodes, this error and the 95 % interval are added.
    """
    values = {**metrics, "score": score.mean}
    if not math.isnan(score.standard_error):
        low, high = score.interval()
        values |= {"score_se": score.standard_error, "score_low": low, "score_high": high}
    return _as_metrics(values)
