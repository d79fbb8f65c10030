"""A search: ask, train, judge at rungs, tell; then train the best again and look at the test."""

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from orchestrator.plan import Plan, derived_seed
from orchestrator.promotion import promote
from orchestrator.recording import Recorder
from orchestrator.sampler import suggest
from orchestrator.selection import Candidate, candidates
from orchestrator.simplex import Simplex
from orchestrator.space import Values
from orchestrator.study import Record, Studied
from trials.contract import Executor, Outcome, RungReport, TrialResult, TrialSpec, Turn

# How often a trial is begun again because its worker was lost, before it is given up.
_LOSSES = 5


class Stopped(Exception):
    """The search was asked to stop. What was reported is kept, and it can be resumed."""


class Work(Protocol):
    """A list of trials to be run, and what is to become of each."""

    record: Record

    def next(self) -> TrialSpec | None:
        """The next trial to run; None when there is none (now, or ever)."""

    def judge(self, report: RungReport) -> tuple[Outcome | None, str]:
        """Whether the trial ends at this rung, and why; it goes on with None."""


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
        for report in {report.key: report for report in turn.reports}.values():
            outcome, self._reasons[report.key] = self._work.judge(report)
            if outcome is not None:
                release[report.key] = outcome
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
        "tasks": {a.task: {"skill": list(a.score), **a.metrics} for a in result.adaptations},
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


class Searching:
    """The trials of the search itself: first the references, then what the sampler suggests."""

    def __init__(self, plan: Plan, record: Record, task_sizes: Mapping[str, int]) -> None:
        self._plan, self.record = plan, record
        self._first = first_trials(plan, task_sizes)
        self._interrupted = deque(t for t in record.trials() if t.state == "running")
        self._at_rung: dict[int, dict[int, float]] = {rung: {} for rung in plan.rungs}
        for trial in record.trials():
            for step, score in trial.reports.items():
                self._at_rung.setdefault(step, {})[trial.number] = score

    def next(self) -> TrialSpec | None:
        if self._interrupted:
            trial = self._interrupted.popleft()
            return self._spec(trial, self.record.adopt(trial.number))
        trials = self.record.trials()
        n = sum(t.state != "waiting" for t in trials)
        if n >= self._plan.trials:
            return None
        plan = self._plan
        params = (
            self._first[n]
            if n < len(self._first)
            else suggest(trials, plan.space, plan.rungs, derived_seed(plan.seed, "sampler"))
        )
        return self._spec(self.record.ask(params), 0)

    def _spec(self, trial: Studied, attempt: int) -> TrialSpec:
        hyperparameters, weights = self._plan.space.decode(trial.params)
        return self._plan.spec(trial.number, hyperparameters, weights, attempt=attempt)

    def judge(self, report: RungReport) -> tuple[Outcome | None, str]:
        number = int(report.key.rpartition("-")[2])
        peers = self._at_rung[report.step]
        peers[number] = report.score.mean
        if math.isnan(report.score.mean):
            return "failed", "diverged"
        if report.step == self._plan.rungs[-1]:
            return "complete", "reached the last rung"
        if number < len(self._first):
            return None, "a first trial is never stopped"
        decision = promote(report.score.mean, peers.values(), self._plan.eta)
        return (None if decision.go_on else "stopped"), decision.reason


def first_trials(plan: Plan, task_sizes: Mapping[str, int]) -> list[Values]:
    """Parameters of the trials that come before anything is suggested.

    The reference at rates spread over their ranges, so that it is tuned too; then, where weights
    are searched, weights in proportion to the tasks' sizes, and the user's prior if it is another.
    """
    first = plan.space.rate_design(plan.reference_trials, plan.seed)
    weights = plan.space.weights
    if isinstance(weights, Simplex):
        total = sum(task_sizes.values())
        sizes = {task: task_sizes[task] / total for task in weights.tasks}
        prior = dict(zip(weights.tasks, weights.prior, strict=True))
        uniform = dict.fromkeys(weights.tasks, 1 / len(weights.tasks))
        for others in (sizes, prior):
            if any(abs(others[task] - uniform[task]) > 1e-9 for task in others):
                first.append(plan.space.with_weights(others))
    return first[: plan.trials]


@dataclass(frozen=True)
class Repeat:
    """A candidate to be trained again, or a trained one to be tested."""

    spec: TrialSpec
    candidate: Candidate
    seed_index: int


class Again:
    """A fixed list of trials, each run to its end."""

    def __init__(self, record: Record, repeats: Sequence[Repeat]) -> None:
        self.record = record
        known = {t.number: t.state for t in record.trials() if t.state != "waiting"}
        self._left = deque(
            (i, r) for i, r in enumerate(repeats) if known.get(i, "running") == "running"
        )
        self._known = known

    def next(self) -> TrialSpec | None:
        if not self._left:
            return None
        number, repeat = self._left.popleft()
        if number in self._known:
            return replace(repeat.spec, attempt=self.record.adopt(number))
        notes = {
            "candidate": repeat.candidate.number,
            "reference": repeat.candidate.reference,
            "seed_index": repeat.seed_index,
        }
        asked = self.record.ask({}, notes)
        assert asked.number == number, "trials are asked for in the order of the list"
        return repeat.spec

    def judge(self, report: RungReport) -> tuple[Outcome | None, str]:
        if math.isnan(report.score.mean):
            return "failed", "diverged"
        return "complete", ""


def final_trials(plan: Plan, chosen: Sequence[Candidate]) -> list[Repeat]:
    """Each candidate with each of the seeds, which are the same for all: a paired comparison."""
    repeats: list[Repeat] = []
    for candidate in chosen:
        hyperparameters, weights = plan.space.decode(candidate.params)
        for j in range(plan.seeds):
            seed = derived_seed(plan.seed, "final", j)
            spec = plan.spec(len(repeats), hyperparameters, weights, stage="final", seed=seed)
            repeats.append(Repeat(spec, candidate, j))
    return repeats


def tested_trials(
    plan: Plan, chosen: Sequence[Candidate], finals: Sequence[Studied]
) -> list[Repeat]:
    """The best candidate on fresh episodes and the reference, from where their finals ended."""
    shown = {best_candidate(finals, reference=False), best_candidate(finals, reference=True)}
    repeats: list[Repeat] = []
    for i, repeat in enumerate(final_trials(plan, chosen)):
        if repeat.candidate.number in shown and finals[i].state == "complete":
            spec = replace(repeat.spec, number=len(repeats), stage="test", initial=repeat.spec.key)
            repeats.append(Repeat(spec, repeat.candidate, repeat.seed_index))
    return repeats


def best_candidate(finals: Sequence[Studied], *, reference: bool) -> int | None:
    """The candidate with the best mean over the seeds, none of which diverged; None if all have."""
    scores: dict[int, list[float]] = {}
    for trial in finals:
        if trial.notes["reference"] is reference:
            score = trial.score if trial.state == "complete" else -math.inf
            scores.setdefault(trial.notes["candidate"], []).append(score)
    means = {n: sum(s) / len(s) for n, s in scores.items() if -math.inf not in s}
    return max(means, key=lambda number: (means[number], -number), default=None)
