"""The trials that a search is made of: which comes next, and what becomes of each."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from orchestrator.plan import Plan, derived_seed
from orchestrator.promotion import promote
from orchestrator.sampler import suggest
from orchestrator.selection import Candidate, best_candidate
from orchestrator.simplex import Simplex, shared
from orchestrator.space import Values
from orchestrator.study import Record, Studied
from trials.contract import Outcome, RungReport, TrialSpec

# Whether a trial ends (None: it goes on), and why.
Judgement = tuple[Outcome | None, str]


class Work(Protocol):
    """A list of trials to be run, and what is to become of each."""

    record: Record

    def next(self) -> TrialSpec | None:
        """The next trial to run; None when there is none (now, or ever)."""

    def judge(self, reports: Sequence[RungReport]) -> Mapping[str, Judgement]:
        """What becomes of trials that reached a rung together, by key; their order is nothing."""


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

    def judge(self, reports: Sequence[RungReport]) -> Mapping[str, Judgement]:
        for report in reports:
            self._at_rung[report.step][_number(report)] = report.score.mean
        return {report.key: self._judged(report) for report in reports}

    def _judged(self, report: RungReport) -> Judgement:
        if math.isnan(report.score.mean):
            return "failed", "diverged"
        if report.step == self._plan.rungs[-1]:
            return "complete", "reached the last rung"
        if _number(report) < len(self._first):
            return None, "a first trial is never stopped"
        peers = self._at_rung[report.step].values()
        decision = promote(report.score.mean, peers, self._plan.eta)
        return (None if decision.go_on else "stopped"), decision.reason


def _number(report: RungReport) -> int:
    return int(report.key.rpartition("-")[2])


def first_trials(plan: Plan, task_sizes: Mapping[str, int]) -> list[Values]:
    """Parameters of the trials that come before anything is suggested.

    The reference at rates spread over their ranges, so that it is tuned too; then, where weights
    are searched, weights in proportion to the tasks' sizes, and the user's prior if it is another.
    """
    first = plan.space.rate_design(plan.reference_trials, plan.seed)
    weights = plan.space.weights
    if isinstance(weights, Simplex):
        prior = dict(zip(weights.tasks, weights.prior, strict=True))
        uniform = dict.fromkeys(weights.tasks, 1 / len(weights.tasks))
        sizes = uniform  # of functions, which have none
        if task_sizes:
            total = sum(task_sizes.values())
            sizes = {task: task_sizes[task] / total for task in weights.tasks}
            sizes = shared(sizes, weights.groups or weights.tasks)
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

    def judge(self, reports: Sequence[RungReport]) -> Mapping[str, Judgement]:
        return {
            report.key: ("failed", "diverged")
            if math.isnan(report.score.mean)
            else ("complete", "")
            for report in reports
        }


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
