"""The scheduler, which assigns trials to free lanes turn by turn."""

import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fewshot.metrics import Estimate
from orchestrator.record.enqueued import ORIGIN
from orchestrator.record.studies.study import StudyRecord
from orchestrator.search.decisions.halving import Decision
from orchestrator.search.decisions.trial_sources import TrialSource
from orchestrator.search.failures import FailureMonitor
from orchestrator.search.losses import WorkerLosses
from orchestrator.tracking.recorder import Recorder
from trials.contract import (
    AdaptationResult,
    Executor,
    Outcome,
    RungReport,
    Stage,
    TrialResult,
    TrialSpec,
    Turn,
)


class Scheduler:
    """Starts trials from several sources in order: the first source comes first.

    sources: the source of the trials of each stage. live: the running trials by key.
    """

    def __init__(
        self, sources: Mapping[Stage, TrialSource], recorder: Recorder, executor: Executor
    ) -> None:
        self.live: dict[str, TrialSpec] = {}
        self.failures = FailureMonitor({stage: source.record for stage, source in sources.items()})
        self._sources, self._recorder, self._executor = sources, recorder, executor
        self._to_restart: deque[TrialSpec] = deque()
        self._waiting: deque[TrialSpec] = deque()  # for a worker of another kind
        self._losses = WorkerLosses()
        self._reasons: dict[str, str] = {}
        self._seconds: dict[str, tuple[float, float]] = {}  # training time by key, see `_times`
        self._rung_skills: dict[str, dict[int, Mapping[str, Estimate]]] = {}  # by key and step

    @property
    def stage(self) -> Stage:
        """The first stage that still has running trials."""
        *stages, last = self._sources
        # `any` ends at the first trial of the stage: a cluster may have thousands of live trials.
        live = (s for s in stages if any(spec.stage == s for spec in self.live.values()))
        return next(live, last)

    @property
    def has_trials(self) -> bool:
        """Whether trials run, or wait for a worker that may train them."""
        return bool(self.live or self._to_restart or self._waiting)

    def admit(self, free: int, worker: int) -> list[TrialSpec]:
        """Start up to `free` trials on a worker. Trials of lost workers are restarted first."""
        for source in self._sources.values() if not self._enough_wait() else ():
            source.prepare(free)
        specs: list[TrialSpec] = []
        while len(specs) < free:
            spec = self._next_to_restart(worker) or self._next(worker)
            if spec is None:
                break
            self.live[spec.key] = spec
            specs.append(spec)
        for source in self._sources.values():  # before any worker or MLflow knows of the trials
            source.record.sync()
        for spec in specs:
            notes = self._sources[spec.stage].record[spec.number].notes
            self._recorder.trial_started(spec, time=time.time(), origin=notes.get(ORIGIN, ""))
        return specs

    def _next_to_restart(self, worker: int) -> TrialSpec | None:
        for spec in self._to_restart:
            if self._may_train(worker, spec) and self._losses.may_start(spec.key, worker):
                self._to_restart.remove(spec)
                return spec
        return None

    def _next(self, worker: int) -> TrialSpec | None:
        """The next trial that the worker may train. Those before it wait for other workers."""
        for waiting in self._waiting:
            if self._may_train(worker, waiting):
                self._waiting.remove(waiting)
                return waiting
        for source in self._sources.values():
            while not self._enough_wait() and (spec := source.next()) is not None:
                if self._may_train(worker, spec):
                    return spec
                self._waiting.append(spec)
        return None

    def _may_train(self, worker: int, spec: TrialSpec) -> bool:
        return worker in self._executor.workers_for(spec)

    def _enough_wait(self) -> bool:
        """Whether as many trials wait as the workers for the first of them have lanes.

        More would be suggestions that know little when they start at last.
        """
        if not self._waiting:
            return False
        workers = self._executor.workers_for(self._waiting[0])
        return len(self._waiting) >= len(workers) * self._executor.lanes

    def look_ahead(self, lanes: int) -> None:
        """Prepare trials for lanes that will become free."""
        for source in self._sources.values():
            source.look_ahead(lanes)

    def interrupt_trials(self) -> None:
        """Record that the running trials are paused until the search is resumed."""
        for spec in self.live.values():
            self._recorder.trial_interrupted(spec, time=time.time())

    def handle_turn(self, turn: Turn) -> dict[str, Outcome]:
        """Record a worker's turn; returns the trials that must end, with their outcomes."""
        _count_steps(next(iter(self._sources.values())).record, turn)
        if turn.load:
            self._recorder.worker_load(turn.worker, turn.load, time=time.time())
        for result in turn.results:
            self._end(result)
        self._take_back(turn)
        for report in turn.reports:
            spec = self.live[report.key]
            source = self._sources[spec.stage]
            rung = source.rung(spec, report.step)
            if rung not in source.record[spec.number].reports:
                self._losses.reported(report.key)
            source.record.report(spec.number, rung, report.score.mean)
            self._recorder.reported(report)
            self._seconds[report.key] = report.seconds, report.lane_seconds
            self._rung_skills.setdefault(report.key, {})[rung] = report.per_task
            self.failures.reported(report.score.mean)
        release: dict[str, Outcome] = {}
        for key, decision in self._decisions(turn.reports).items():
            self._reasons[key] = decision.reason
            if decision.outcome is not None:
                release[key] = decision.outcome
        self.failures.check(self.live, release)
        return release

    def _decisions(self, reports: Sequence[RungReport]) -> dict[str, Decision]:
        # A restarted trial repeats its earlier reports; only the last one needs a decision.
        latest = {report.key: self._at_rung(report) for report in reports}
        decisions: dict[str, Decision] = {}
        for stage, source in self._sources.items():
            decisions |= source.decide(
                [r for r in latest.values() if self.live[r.key].stage == stage]
            )
        return decisions

    def _at_rung(self, report: RungReport) -> RungReport:
        """The report at the step at which its source records and compares it."""
        spec = self.live[report.key]
        return replace(report, step=self._sources[spec.stage].rung(spec, report.step))

    def _end(self, result: TrialResult) -> None:
        spec, reason = self.live.pop(result.key), self._reasons.pop(result.key, "")
        self._losses.ended(result.key)
        times = _times(result, *self._seconds.pop(result.key, (0.0, 0.0)))
        notes = times | _skills(self._rung_skills.pop(result.key, {}))
        record = self._sources[spec.stage].record
        _end(record, self._recorder, spec, result, result.error or reason, notes)

    def _take_back(self, turn: Turn) -> None:
        """Queue the trials of a worker that is gone; end those that have lost too many workers."""
        failed: Mapping[str, str] = {}
        if turn.lost:
            failed = self._losses.lost(turn.worker, turn.lost, turn.loss)
        if turn.returned:
            self._losses.handed_back(turn.worker)
        for key in (*turn.lost, *turn.returned):
            spec = self.live[key]
            record = self._sources[spec.stage].record
            if key in failed:
                self._end(_failed(key, max(record[spec.number].reports, default=0), failed[key]))
            else:
                del self.live[key]
                self._to_restart.append(replace(spec, attempt=record.adopt(spec.number)))


def _failed(key: str, step: int, error: str) -> TrialResult:
    return TrialResult(key=key, outcome="failed", step=step, error=error, time=time.time())


def _end(
    record: StudyRecord,
    recorder: Recorder,
    spec: TrialSpec,
    result: TrialResult,
    reason: str,
    further: Mapping[str, Any],
) -> None:
    """Write the end of a trial to the recorder first and to the study second.

    After a kill at any moment, each trial that has ended in the study has also ended in the
    recorder. further: more notes for the study.
    """
    recorder.trial_ended(result, state=result.outcome, note=reason)
    notes: dict[str, Any] = {
        **further,
        "reason": reason,
        "checkpoint": result.checkpoint,
        "seed": spec.seed,
        "hyperparameters": dict(spec.hyperparameters),
        "choices": dict(spec.choices),
        "task_weights": dict(spec.task_weights),
        "tasks": {a.task: _scores(a) for a in result.adaptations},
    }
    record.finish(spec.number, result.outcome, record[spec.number].score, notes)


def _scores(adaptation: AdaptationResult) -> dict[str, Any]:
    """The note on one held-out task: its metrics; its skill, also on each problem if known."""
    own = {"by_problem": list(adaptation.by_problem)} if adaptation.by_problem else {}
    return {**adaptation.metrics, "skill": list(adaptation.score), **own}


def _times(result: TrialResult, seconds: float, lane_seconds: float) -> dict[str, float]:
    """Notes on the time of a trial: training, see `RungReport`, and the last scoring.

    The last scoring is known for complete trials only.
    """
    times = {"seconds": seconds, "lane_seconds": lane_seconds}
    if result.adaptations:
        times["scoring_seconds"] = sum(a.seconds for a in result.adaptations)
    return {name: round(value, 4) for name, value in times.items()}


def _skills(by_step: Mapping[int, Mapping[str, Estimate]]) -> dict[str, Any]:
    """The note `rung_skills`: for each validation task its skills at the trial's rungs, in order.

    A trial that is restarted repeats its earlier reports, so the note has every rung.
    """
    if not by_step:
        return {}
    reports = [by_step[step] for step in sorted(by_step)]
    rows = {task: [_rounded(report[task].mean) for report in reports] for task in reports[0]}
    return {"rung_skills": rows}


def _rounded(skill: float) -> float | None:
    return round(skill, 5) if math.isfinite(skill) else None


def _count_steps(record: StudyRecord, turn: Turn) -> None:
    """Add up lane steps and capacity steps over all workers and restarts; see `occupancy`."""
    if turn.capacity_steps:
        used, capacity = record.notes.get("steps", (0, 0))
        record.note("steps", [used + turn.lane_steps, capacity + turn.capacity_steps])
