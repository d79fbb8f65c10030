"""A search: ask, train, judge at rungs, tell; then train the best again and look at the test."""

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fewshot.faults import FewtuneError
from orchestrator.failures import Failures, SearchFailed
from orchestrator.plan import Plan
from orchestrator.recording import Recorder
from orchestrator.selection import UNTRAINED
from orchestrator.study import Record
from orchestrator.work import Again, Judgement, Repeat, Searching, Work, finals, tests
from trials.contract import (
    Executor,
    Outcome,
    Recipe,
    RungReport,
    Stage,
    TrialResult,
    TrialSpec,
    Turn,
)
from trials.untrained import is_untrained

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

    Raises SearchFailed if no trial of a stage succeeds.
    """

    searching = Searching(plan, records.search, task_sizes)
    # Finals begin on lanes that the search has no more trials for.
    final = Again(plan, "final", records.final, lambda: finals(plan, searching.standings))
    course = _Course({"search": searching, "final": final}, recorder)
    _run(course, executor, observe, stopping)
    shown = tests(plan, searching.standings, records.final.trials())
    test = Again(plan, "test", records.test, lambda: shown)
    _run(_Course({"test": test}, recorder), executor, observe, stopping)


def score_untrained(
    plan: Plan, recipe: Recipe, stage: Stage, record: Record, executor: Executor, recorder: Recorder
) -> None:
    """Score the untrained model on the episodes of a stage, `final` or `test`, once.

    recipe: the untrained model's, see `trials.untrained`; executor: of that recipe.
    """
    work = Again(plan, stage, record, lambda: [Repeat(UNTRAINED, 0, untrained=recipe)])
    _run(_Course({stage: work}, recorder), executor, lambda _: None, lambda: False)


class _Course:
    """The trials of some works on their way through the workers; the first work's come first."""

    def __init__(self, works: Mapping[Stage, Work], recorder: Recorder) -> None:
        self.live: dict[str, TrialSpec] = {}
        self._works, self._recorder = works, recorder
        self._lost: deque[TrialSpec] = deque()
        self._losses: Counter[str] = Counter()
        self._reasons: dict[str, str] = {}
        self.failures = Failures({stage: work.record for stage, work in works.items()})

    @property
    def stage(self) -> Stage:
        """The first that has not ended."""
        live = {spec.stage for spec in self.live.values()}
        stages = list(self._works)
        return next((stage for stage in stages if stage in live), stages[-1])

    def admit(self, free: int) -> list[TrialSpec]:
        """Up to `free` trials to begin: those that a worker took with it first."""
        for work in self._works.values():
            work.prepare(free)
        specs: list[TrialSpec] = []
        while len(specs) < free:
            spec = self._lost.popleft() if self._lost else self._next()
            if spec is None:
                break
            self.live[spec.key] = spec
            specs.append(spec)
        for work in self._works.values():  # before anyone else hears of them
            work.record.sync()
        for spec in specs:
            name = f"untrained ({spec.stage})" if is_untrained(spec.recipe) else spec.key
            params = _params(spec)
            self._recorder.trial_started(spec, name=name, params=params, time=time.time())
        return specs

    def _next(self) -> TrialSpec | None:
        return next((spec for work in self._works.values() if (spec := work.next())), None)

    def look_ahead(self, lanes: int) -> None:
        for work in self._works.values():
            work.look_ahead(lanes)

    def leave(self) -> None:
        """Say of the live trials that nobody trains them until the search is resumed."""
        for spec in self.live.values():
            self._recorder.trial_interrupted(spec, time=time.time())

    def hear(self, turn: Turn) -> dict[str, Outcome]:
        """Keep what a worker said; returns the trials that are to end."""
        _count_steps(next(iter(self._works.values())).record, turn)
        for result in turn.results:
            spec, reason = self.live.pop(result.key), self._reasons.pop(result.key, "")
            reason = result.error or reason
            _end(self._works[spec.stage].record, self._recorder, spec, result, reason)
        self._lost.extend(self._again(self.live.pop(key)) for key in turn.lost)
        for report in turn.reports:
            spec = self.live[report.key]
            self._works[spec.stage].record.report(spec.number, report.step, report.score.mean)
            self._recorder.reported(report)
            self.failures.reported(report.score.mean)
        release: dict[str, Outcome] = {}
        for key, (outcome, reason) in self._judged(turn.reports).items():
            self._reasons[key] = reason
            if outcome is not None:
                release[key] = outcome
        self.failures.check(self.live.keys() - release.keys())
        return release

    def _judged(self, reports: Sequence[RungReport]) -> dict[str, Judgement]:
        # A trial that was begun again repeats its reports; it is judged by the last.
        latest = {report.key: report for report in reports}
        judged: dict[str, Judgement] = {}
        for stage, work in self._works.items():
            judged |= work.judge([r for r in latest.values() if self.live[r.key].stage == stage])
        return judged

    def _again(self, spec: TrialSpec) -> TrialSpec:
        self._losses[spec.key] += 1
        if self._losses[spec.key] >= _LOSSES:
            raise SearchFailed(f"Trial {spec.key} was on a worker that died {_LOSSES} times.")
        return replace(spec, attempt=self._works[spec.stage].record.adopt(spec.number))


def _run(
    course: _Course,
    executor: Executor,
    observe: Callable[[str], None],
    stopping: Callable[[], bool],
) -> None:
    """Carry trials to the workers, and what they say to the records, until all have ended."""
    lanes = sum(executor.idle().values())
    try:
        while True:
            for worker, free in executor.idle().items():
                if specs := course.admit(free):
                    executor.exchange(worker, {}, specs)
            if not course.live:
                course.failures.check_end()
                return
            if stopping():
                raise Stopped
            # Now that all train, so that none has to wait for what it will be given next.
            course.look_ahead(lanes)
            turn = executor.turn()
            if turn is not None:
                release = course.hear(turn)
                executor.exchange(turn.worker, release, course.admit(turn.free + len(release)))
                observe(course.stage)
    except (Stopped, KeyboardInterrupt, FewtuneError):
        course.leave()
        raise


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
    record.finish(spec.number, result.outcome, record[spec.number].score, notes)


def _count_steps(record: Record, turn: Turn) -> None:
    """Occupancy = lane steps / capacity steps, over all workers and all lives of the search."""
    if turn.capacity_steps:
        used, all_ = record.notes.get("steps", (0, 0))
        record.note("steps", [used + turn.lane_steps, all_ + turn.capacity_steps])


def _params(spec: TrialSpec) -> dict[str, float]:
    return dict(spec.hyperparameters) | {f"lambda/{t}": w for t, w in spec.task_weights.items()}
