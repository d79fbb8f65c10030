"""The trials that a search is made of: which comes next, and what becomes of each."""

import math
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Protocol

from orchestrator.plan import Plan, derived_seed
from orchestrator.promotion import Peers
from orchestrator.sampler import CROWD, Sampler
from orchestrator.selection import Candidate, best_candidate, candidates
from orchestrator.simplex import Simplex, shared
from orchestrator.space import SearchSpace, Values
from orchestrator.standings import Standings
from orchestrator.study import Record, Studied
from trials.contract import Outcome, Recipe, RungReport, Stage, TrialSpec

# The last trials of a search are means of so many of the best.
_MEANS = (8, 4)
# Whether a trial ends (None: it goes on), and why.
Judgement = tuple[Outcome | None, str]


class Work(Protocol):
    """A list of trials to be run, and what is to become of each."""

    record: Record

    def next(self) -> TrialSpec | None:
        """The next trial to run; None when there is none (now, or ever)."""

    def prepare(self, n: int) -> None:
        """Do all at once what would take time in each of the next `n` calls of `next`."""

    def look_ahead(self, lanes: int) -> None:
        """Prepare, while all lanes train, for those that will be free.

        Preparations lapse when as much has been reported since as there are lanes.
        """

    def judge(self, reports: Sequence[RungReport]) -> Mapping[str, Judgement]:
        """What becomes of trials that reached a rung together, by key; their order is nothing."""


class Searching:
    """The trials of the search itself: first the references, then what the sampler suggests.

    What was suggested and not begun is in no record: it would be suggested again, knowing more.
    """

    def __init__(self, plan: Plan, record: Record, task_sizes: Mapping[str, int]) -> None:
        self._plan, self.record = plan, record
        self._first = first_trials(plan, task_sizes)
        self._suggested: deque[Values] = deque()
        self._news = 0  # reports since
        self._standings = Standings(plan.space, plan.rungs)
        self._sampler = Sampler(plan.space, derived_seed(plan.seed, "sampler"))
        self._interrupted = deque(t for t in record.trials() if t.state == "running")
        self._at_rung: defaultdict[int, Peers] = defaultdict(Peers)
        for trial in record.trials():
            for step, score in trial.reports.items():
                self._at_rung[step].put(trial.number, score)

    def next(self) -> TrialSpec | None:
        if self._interrupted:
            trial = self._interrupted.popleft()
            return self._spec(trial, self.record.adopt(trial.number))
        n = len(self.record)
        if n >= self._plan.trials:
            return None
        mean = self._mean(self._plan.trials - n)
        if n < len(self._first):
            params = self._first[n]
        elif mean is not None:
            params = mean
        else:
            if not self._suggested:
                self._suggest(1)
            params = self._suggested.popleft()
        return self._spec(self.record.ask(params), 0)

    @property
    def standings(self) -> Standings:
        """As they are now."""
        self._standings.update(self.record.trials())
        return self._standings

    def _mean(self, left: int) -> Values | None:
        """The parameters of the trial after which `left` - 1 are to come, if it is to be a mean."""
        if left > len(_MEANS):
            return None
        return mean_of_best(self.standings, self._plan.space, _MEANS[-left])

    def prepare(self, n: int) -> None:
        # Random ones cost nothing, and the later they are drawn the more they know of references.
        left = self._plan.trials - len(self.record)
        if left < n + len(_MEANS):  # the means need not be suggested, if there will be any
            left -= sum(self._mean(place) is not None for place in range(1, len(_MEANS) + 1))
        n = min(n, left) - len(self._suggested)
        if n > 0 and self._has_model():
            self._suggest(n)

    def look_ahead(self, lanes: int) -> None:
        # So many are free at once if all reach a rung together, but the last.
        wanted = math.ceil(lanes * (1 - 1 / self._plan.eta))
        if self._news >= lanes:
            self._suggested.clear()
            self._news = 0
        if len(self._suggested) < wanted:
            self.prepare(2 * wanted if lanes > CROWD else wanted)

    def _has_model(self) -> bool:
        return len(self.record) >= len(self._first) and self._sampler.has_model(self.standings)

    def _suggest(self, n: int) -> None:
        self._suggested += self._sampler.suggest(self.standings, list(self._suggested), n)

    def _spec(self, trial: Studied, attempt: int) -> TrialSpec:
        hyperparameters, weights = self._plan.space.decode(trial.params)
        return self._plan.spec(trial.number, hyperparameters, weights, attempt=attempt)

    def judge(self, reports: Sequence[RungReport]) -> Mapping[str, Judgement]:
        self._news += len(reports)
        for report in reports:
            self._at_rung[report.step].put(_number(report), report.score.mean)
        return {report.key: self._judged(report) for report in reports}

    def _judged(self, report: RungReport) -> Judgement:
        if math.isnan(report.score.mean):
            return "failed", "diverged"
        if report.step == self._plan.rungs[-1]:
            return "complete", "reached the last rung"
        if _number(report) < len(self._first):
            return None, "a first trial is never stopped"
        decision = self._at_rung[report.step].promote(report.score.mean, self._plan.eta)
        return (None if decision.go_on else "stopped"), decision.reason


def _number(report: RungReport) -> int:
    return int(report.key.rpartition("-")[2])


def mean_of_best(standings: Standings, space: SearchSpace, n: int) -> Values | None:
    """The mean of the best `n` complete trials but the references; None before there are so many.

    Each of the best owes its place to luck too; what they have in common is less likely to be luck.
    """
    best = list(islice(standings.complete(reference=False), n))
    return space.mean([t.params for t in best]) if len(best) == n else None


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
    """A candidate to be trained again, or one that was, to be tested.

    initial: key of the trial from whose last rung it starts. untrained: the recipe of the untrained
    model, if it is that, which takes no step.
    """

    candidate: Candidate
    seed_index: int
    initial: str | None = None
    untrained: Recipe | None = None


class Again:
    """Trials of candidates, each run to its end.

    wanted: gives the repeats that are known to be needed so far; none is ever taken back.
    """

    def __init__(
        self, plan: Plan, stage: Stage, record: Record, wanted: Callable[[], Sequence[Repeat]]
    ) -> None:
        self._plan, self._stage, self.record, self._wanted = plan, stage, record, wanted
        trials = {_repeated(t): t for t in record.trials()}
        self._begun = set(trials)
        self._interrupted = {key: t.number for key, t in trials.items() if t.state == "running"}

    def next(self) -> TrialSpec | None:
        for repeat in self._wanted():
            key = repeat.candidate.number, repeat.seed_index
            if key in self._interrupted:
                number = self._interrupted.pop(key)
                return self._spec(repeat, number, self.record.adopt(number))
            if key not in self._begun:
                self._begun.add(key)
                notes = {
                    "candidate": repeat.candidate.number,
                    "role": repeat.candidate.role,
                    "seed_index": repeat.seed_index,
                }
                return self._spec(repeat, self.record.ask({}, notes).number, 0)
        return None

    def prepare(self, n: int) -> None: ...

    def look_ahead(self, lanes: int) -> None: ...

    def _spec(self, repeat: Repeat, number: int, attempt: int) -> TrialSpec:
        plan = self._plan
        # The seeds are the same for all candidates: a paired comparison.
        own: dict[str, Any] = {
            "attempt": attempt,
            "stage": self._stage,
            "seed": derived_seed(plan.seed, "final", repeat.seed_index),
        }
        if repeat.untrained is not None:
            return replace(plan.spec(number, {}, {}, **own), recipe=repeat.untrained, rungs=(0,))
        spec = plan.spec(number, *plan.space.decode(repeat.candidate.params), **own)
        return replace(spec, initial=repeat.initial)

    def judge(self, reports: Sequence[RungReport]) -> Mapping[str, Judgement]:
        return {
            report.key: ("failed", "diverged")
            if math.isnan(report.score.mean)
            else ("complete", "")
            for report in reports
        }


def _repeated(trial: Studied) -> tuple[int | None, int]:
    return trial.notes["candidate"], trial.notes["seed_index"]


def finals(plan: Plan, standings: Standings) -> list[Repeat]:
    """Each candidate with each of the seeds, as far as it is sure to be one."""
    chosen = candidates(standings, plan.finalists)
    return [Repeat(candidate, j) for candidate in chosen for j in range(plan.seeds)]


def tests(plan: Plan, standings: Standings, finals: Sequence[Studied]) -> list[Repeat]:
    """The best searched candidate on fresh episodes and the uniform one, from where they ended."""
    shown = {best_candidate(finals, "searched"), best_candidate(finals, "uniform")}
    ended = {_repeated(t): t.number for t in finals if t.state == "complete"}
    return [
        Repeat(c, j, f"final-{ended[c.number, j]:04d}")
        for c in sorted(candidates(standings, plan.finalists), key=lambda c: c.role)
        if c.number in shown
        for j in range(plan.seeds)
        if (c.number, j) in ended
    ]
