"""The sources of trials, with their decisions at rungs."""

import math
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from typing import Protocol

from orchestrator.config.plan import Plan
from orchestrator.record.enqueued import FILE, ORIGIN, EnqueuedTrials
from orchestrator.record.studies.study import StudiedTrial, StudyRecord
from orchestrator.sampling.optuna_samplers import OptunaSampler, sampler_of
from orchestrator.sampling.process.points import NO_AFFINITY
from orchestrator.sampling.ranked_trials import RankedTrials
from orchestrator.sampling.sampler import CROWD, MOST_PENDING, Sampler
from orchestrator.search.decisions.early_stopping import EarlyStopping, trials_before_stop
from orchestrator.search.decisions.halving import Decision, RungScores
from orchestrator.search.decisions.own_trials import FROM
from orchestrator.space.search_space import Values
from orchestrator.space.simplex import Simplex, shared
from trials.contract import RungReport, TrialSpec

# So many trials at the end of a search are where the sampler expects the best score.
_LAST = 2


class TrialSource(Protocol):
    """Gives trials to the scheduler and decides on them at rungs."""

    record: StudyRecord

    def next(self) -> TrialSpec | None:
        """The next trial to run; None if there is none now. There may be one later."""

    def prepare(self, n: int) -> None:
        """Do the expensive part of the next `n` calls of `next` in one batch."""

    def look_ahead(self, lanes: int) -> None:
        """Prepare trials for lanes that will become free, while all `lanes` lanes train.

        Prepared trials are discarded after as many new reports as there are lanes.
        """

    def rung(self, spec: TrialSpec, step: int) -> int:
        """The step at which the record keeps the score of a trial at its own `step`."""

    def decide(self, reports: Sequence[RungReport]) -> Mapping[str, Decision]:
        """Decisions by key on trials that reached rungs in one turn; their order has no effect.

        The steps of the reports are those of the record.
        """


class SearchTrials:
    """The trials of the search itself: first the reference trials, then the sampler's suggestions.

    Between them come the best trials of an earlier search, if the record has a note of them.
    Configurations that a user has enqueued come before suggestions. A suggestion that has not been
    started is not recorded. After a restart the sampler makes a new one, which uses more reports.
    """

    def __init__(
        self,
        plan: Plan,
        record: StudyRecord,
        task_sizes: Mapping[str, int],
        enqueued: EnqueuedTrials | None = None,
    ) -> None:
        self._plan, self.record, self._enqueued = plan, record, enqueued
        self._first_trials = first_trials(plan, task_sizes)
        earlier = record.notes.get(FROM, {"trials": []})
        self._earlier = [
            (trial["params"], f"{earlier['search']}/{trial['number']}")
            for trial in earlier["trials"]
        ]
        self._suggested: deque[Values] = deque()
        self._new_reports = 0  # since the suggestions were made
        self._standings = RankedTrials(plan.space, plan.rungs)
        affinity = record.notes.get("affinity", NO_AFFINITY)
        self._sampler: Sampler | OptunaSampler = sampler_of(plan, affinity)
        self._stopping = EarlyStopping(plan, self._sampler, _LAST)
        self._interrupted = deque(t for t in record.trials() if t.state == "running")
        self._at_rung: defaultdict[int, RungScores] = defaultdict(RungScores)
        for trial in record.trials():
            for step, score in trial.reports.items():
                self._at_rung[step].add(trial.number, score)

    def next(self) -> TrialSpec | None:
        if self._interrupted:
            trial = self._interrupted.popleft()
            return self._spec(trial, self.record.adopt(trial.number))
        n = len(self.record)
        if n >= self._limit:
            return None
        return self._spec(self.record.ask(*self._next_params(n)), 0)

    def _next_params(self, n: int) -> tuple[Values, dict[str, str]]:
        """The parameters and the notes of trial `n`."""
        if n < len(self._first_trials):
            return self._first_trials[n], {}
        if n < len(self._first_trials) + len(self._earlier):
            params, origin = self._earlier[n - len(self._first_trials)]
            return params, {ORIGIN: origin}
        if self._enqueued and (waiting := self._enqueued.next(self.record, self._plan.space)):
            file, params = waiting
            return params, {ORIGIN: "enqueued", FILE: file}
        left = self._limit - n
        if left <= _LAST and (last := self._sampler.last(self.ranked_trials, left)) is not None:
            return last, {}
        if not self._suggested:
            self._suggest(1)
        return self._suggested.popleft(), {}

    @property
    def _limit(self) -> int:
        """The number of trials: those of the plan, or fewer if the search stops early."""
        return trials_before_stop(self.record) or self._plan.trials

    @property
    def ranked_trials(self) -> RankedTrials:
        """The ranked trials, updated from the record."""
        self._standings.update(self.record.trials())
        return self._standings

    def prepare(self, n: int) -> None:
        # Random suggestions are cheap. They use the best references, so they are drawn late.
        n = min(n, self._limit - len(self.record) - _LAST) - len(self._suggested)
        if n > 0 and self._has_model():
            self._suggest(n)

    def look_ahead(self, lanes: int) -> None:
        if self._enqueued:
            self._enqueued.remove_started(self.record)
        if self._plan.may_stop_early:
            self._stopping.check(self.record, self.ranked_trials)
        # This many lanes become free at once if all trials reach a rung together (not the last).
        free = math.ceil(lanes * (1 - 1 / self._plan.eta))
        wanted = min(free, MOST_PENDING // 2)
        if self._new_reports >= lanes:
            self._suggested.clear()
            self._new_reports = 0
        if len(self._suggested) < wanted:
            self.prepare(wanted + min(free, MOST_PENDING) if lanes > CROWD else wanted)

    def _has_model(self) -> bool:
        given = len(self._first_trials) + len(self._earlier)
        return len(self.record) >= given and self._sampler.has_model(self.ranked_trials)

    def _suggest(self, n: int) -> None:
        self._suggested += self._sampler.suggest(self.ranked_trials, list(self._suggested), n)

    def _spec(self, trial: StudiedTrial, attempt: int) -> TrialSpec:
        return self._plan.trial(trial.number, trial.params, attempt=attempt)

    def rung(self, spec: TrialSpec, step: int) -> int:
        return self._plan.rung(spec, step)

    def decide(self, reports: Sequence[RungReport]) -> Mapping[str, Decision]:
        self._new_reports += len(reports)
        for report in reports:
            self._at_rung[report.step].add(_number(report), report.score.mean)
        return {report.key: self._decide(report) for report in reports}

    def _decide(self, report: RungReport) -> Decision:
        score = report.score.mean
        if math.isnan(score):
            return Decision("failed", "diverged")
        if report.step == self._plan.rungs[-1]:
            return Decision("complete", "reached the last rung")
        number = _number(report)
        if number < len(self._first_trials):
            return Decision(None, "the first trials are never pruned")
        if self._plan.space.is_reference(self.record[number].params):
            return Decision(None, "the reference is never pruned")
        return self._at_rung[report.step].decide(score, self._plan.eta)


def _number(report: RungReport) -> int:
    return int(report.key.rpartition("-")[2])


def first_trials(plan: Plan, task_sizes: Mapping[str, int]) -> list[Values]:
    """Parameters of the trials before the sampler's first suggestion.

    The first trials are the reference with rates spread over their ranges, so that the reference is
    tuned too. If weights are searched, there is one more trial for weights proportional to the task
    sizes, and one for the user's prior, each only if it differs from uniform weights.
    """
    first = plan.space.rate_design(plan.reference_trials, plan.seed)
    weights = plan.space.weights
    if isinstance(weights, Simplex):
        prior = dict(zip(weights.tasks, weights.prior, strict=True))
        uniform = dict.fromkeys(weights.tasks, 1 / len(weights.tasks))
        sizes = uniform  # functions have no size
        if task_sizes:
            total = sum(task_sizes.values())
            sizes = {task: task_sizes[task] / total for task in weights.tasks}
            sizes = shared(sizes, weights.groups or weights.tasks)
        for others in (sizes, prior):
            if any(abs(others[task] - uniform[task]) > 1e-9 for task in others):
                first.append(plan.space.with_weights(others))
    return first[: plan.trials]
