"""A search: ask, train, judge at rungs, tell; then train the best again and look at the test."""

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.plan import Plan
from orchestrator.recording import Recorder
from orchestrator.selection import candidates
from orchestrator.study import Record
from orchestrator.work import Again, Searching, Work, final_trials, tested_trials
from trials.contract import Executor, Outcome, TrialResult, TrialSpec, Turn

# How often a trial is begun again because its worker was lost, before it is given up.
_LOSSES = 5


class Stopped(Exception):
    """The search was asked to stop. What was reported is kept, and it can be resumed."""


@dataclass(frozen=True)
class Records:
    """The three studies of a search: its trials, the finalists trained again, their tests."""

    search: Record
    final: Record
    test: Record


def search(
    plan: Plan,
    records: Records,
    executor: Executor,
    recorder: Recorder,
    *,
    task_sizes: Mapping[str, int],
    observe: Callable[[str], None] = lambda stage: None,
    stopping: Callable[[], bool] = lambda: False,
) -> None:
    """Run the search, or what is left of it, to its end.

    task_sizes: number of examples of each training task, for the size-proportional trial.
    observe: called with the stage whenever something has changed in the records.
    stopping: asked between turns; raises Stopped if it says yes.
    """

    def run(stage: str, work: Work) -> None:
        _run(_Course(work, recorder), executor, lambda: observe(stage), stopping)

    run("search", Searching(plan, records.search, task_sizes))
    chosen = candidates(records.search.trials(), plan.space, plan.finalists)
    run("final", Again(records.final, list(final_trials(plan, chosen))))
    run("test", Again(records.test, list(tested_trials(plan, chosen, records.final.trials()))))


class _Course:
    """The trials of some work on their way through the workers."""

    def __init__(self, work: Work, recorder: Recorder) -> None:
        self.live: dict[str, TrialSpec] = {}
        self._work, self._recorder = work, recorder
        self._lost: deque[TrialSpec] = deque()
        self._losses: Counter[str] = Counter()
        self._reasons: dict[str, str] = {}

    def admit(self, free: int) -> list[TrialSpec]:
        """Up to `free` trials to begin: those that a worker took with it first."""
        specs: list[TrialSpec] = []
        while len(specs) < free:
            spec = self._lost.popleft() if self._lost else self._work.next()
            if spec is None:
                break
            self.live[spec.key] = spec
            self._recorder.trial_started(spec, params=_params(spec), time=time.time())
            specs.append(spec)
        return specs

    def hear(self, turn: Turn) -> dict[str, Outcome]:
        """Keep what a worker said; returns the trials that are to end."""
        record = self._work.record
        _count_steps(record, turn.lane_steps, turn.capacity_steps)
        for result in turn.results:
            reason = self._reasons.pop(result.key, "")
            _end(record, self._recorder, self.live.pop(result.key), result, reason)
        self._lost.extend(self._again(self.live.pop(key)) for key in turn.lost)
        for report in turn.reports:
            record.report(self.live[report.key].number, report.step, report.score.mean)
            self._recorder.reported(report)
        release: dict[str, Outcome] = {}
        # A trial that was begun again repeats its reports; it is judged by the last.
        latest = {report.key: report for report in turn.reports}
        for key, (outcome, reason) in self._work.judge(list(latest.values())).items():
            self._reasons[key] = reason
            if outcome is not None:
                release[key] = outcome
        return release

    def _again(self, spec: TrialSpec) -> TrialSpec:
        self._losses[spec.key] += 1
        if self._losses[spec.key] >= _LOSSES:
            raise RuntimeError(f"Trial {spec.key} was on a worker that died {_LOSSES} times.")
        return replace(spec, attempt=self._work.record.adopt(spec.number))


def _run(
    course: _Course,
    executor: Executor,
    observe: Callable[[], None],
    stopping: Callable[[], bool],
) -> None:
    """Carry trials to the workers, and what they say to the records, until all have ended."""
    while True:
        for worker, free in executor.idle().items():
            if specs := course.admit(free):
                executor.exchange(worker, {}, specs)
        if not course.live:
            return
        if stopping():
            raise Stopped
        turn = executor.turn()
        if turn is not None:
            release = course.hear(turn)
            executor.exchange(turn.worker, release, course.admit(turn.free + len(release)))
            observe()


def _end(
    record: Record, recorder: Recorder, spec: TrialSpec, result: TrialResult, reason: str
) -> None:
    """The record comes second: a trial that it calls ended has been said to the recorder."""
    recorder.trial_ended(result, state=result.outcome, note=reason)
    notes: dict[str, Any] = {
        "reason": reason,
        "checkpoint": result.checkpoint,
        "seed": spec.seed,
        "hyperparameters": dict(spec.hyperparameters),
        "task_weights": dict(spec.task_weights),
        "tasks": {a.task: {**a.metrics, "skill": list(a.score)} for a in result.adaptations},
    }
    last = record.trials()[spec.number].score
    record.finish(spec.number, result.outcome, last, notes)


def _count_steps(record: Record, lane_steps: int, capacity_steps: int) -> None:
    """Occupancy = lane steps / capacity steps, over all workers and all lives of the search."""
    if capacity_steps:
        used, all_ = record.notes.get("steps", (0, 0))
        record.note("steps", [used + lane_steps, all_ + capacity_steps])


def _params(spec: TrialSpec) -> dict[str, float]:
    return dict(spec.hyperparameters) | {f"lambda/{t}": w for t, w in spec.task_weights.items()}
