"""The trials after the search: retrainings of the candidates with new seeds, and their tests."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from orchestrator.config.plan import Plan, derived_seed
from orchestrator.record.studies.study import StudiedTrial, StudyRecord
from orchestrator.sampling.ranked_trials import RankedTrials
from orchestrator.search.decisions.halving import Decision
from orchestrator.search.finals.finalists import (
    Candidate,
    Role,
    best_candidate,
    candidates,
    mean_score,
    role_of,
)
from trials.contract import Recipe, RungReport, Stage, TrialSpec

_TRAINED: tuple[Literal["searched", "uniform"], ...] = ("searched", "uniform")


@dataclass(frozen=True)
class Retraining:
    """One run of a candidate with one new seed: its retraining, or the test of that retraining.

    initial: key of the trial whose last checkpoint it starts from. untrained: the recipe of the
    untrained model if the candidate is the untrained model, which takes no steps; else None.
    """

    candidate: Candidate
    seed_index: int
    initial: str | None = None
    untrained: Recipe | None = None


class RetrainTrials:
    """Retraining of the candidates, each run to its last rung.

    wanted: returns the retrainings known to be needed so far; later calls only add to them.
    """

    def __init__(
        self,
        plan: Plan,
        stage: Stage,
        record: StudyRecord,
        wanted: Callable[[], Sequence[Retraining]],
    ) -> None:
        self._plan, self._stage, self.record, self._wanted = plan, stage, record, wanted
        trials = {_key_of(t): t for t in record.trials()}
        self._started = set(trials)
        self._interrupted = {key: t.number for key, t in trials.items() if t.state == "running"}

    def next(self) -> TrialSpec | None:
        for retraining in self._wanted():
            candidate = retraining.candidate
            key = candidate.role, candidate.number, retraining.seed_index
            if key in self._interrupted:
                number = self._interrupted.pop(key)
                return self._spec(retraining, number, self.record.adopt(number))
            if key not in self._started:
                self._started.add(key)
                notes = {
                    "candidate": candidate.number,
                    "role": candidate.role,
                    "seed_index": retraining.seed_index,
                }
                return self._spec(retraining, self.record.ask({}, notes).number, 0)
        return None

    def prepare(self, n: int) -> None: ...

    def look_ahead(self, lanes: int) -> None: ...

    def _spec(self, retraining: Retraining, number: int, attempt: int) -> TrialSpec:
        plan = self._plan
        # All candidates have the same seeds, so that they can be compared in pairs.
        fields: dict[str, Any] = {
            "attempt": attempt,
            "stage": self._stage,
            "seed": derived_seed(plan.seed, "final", retraining.seed_index),
        }
        if retraining.untrained is not None:
            return replace(
                plan.spec(number, {}, {}, **fields), recipe=retraining.untrained, rungs=(0,)
            )
        spec = plan.trial(number, retraining.candidate.params, **fields)
        return replace(spec, initial=retraining.initial)

    def rung(self, spec: TrialSpec, step: int) -> int:
        return step

    def decide(self, reports: Sequence[RungReport]) -> Mapping[str, Decision]:
        return {
            report.key: Decision("failed", "diverged")
            if math.isnan(report.score.mean)
            else Decision("complete", "")
            for report in reports
        }


def _key_of(trial: StudiedTrial) -> tuple[Role, int | None, int]:
    return role_of(trial), trial.notes["candidate"], trial.notes["seed_index"]


def finalist_retrainings(plan: Plan, ranked_trials: RankedTrials) -> list[Retraining]:
    """One retraining per seed for each candidate that no running trial can replace."""
    chosen = candidates(ranked_trials, plan.finalists)
    return [Retraining(candidate, j) for candidate in chosen for j in range(plan.seeds)]


def _may_be_matched(plan: Plan) -> bool:
    """Whether the reference can have the rates and the choices of another trial."""
    return bool(plan.space.reference() and (plan.space.rates() or plan.space.choices))


def most_retrainings(plan: Plan) -> int:
    """The number of retrainings of a search, if the reference is also retrained as matched."""
    return (plan.finalists + 1 + _may_be_matched(plan)) * plan.seeds


def matched_retrainings(
    plan: Plan, ranked_trials: RankedTrials, finalist_retrainings: Sequence[StudiedTrial]
) -> list[Retraining]:
    """Retrainings of the reference with the rates and the choices of the best candidate.

    A search tunes rates in all of its trials, and those of the reference in a few. Without these
    retrainings, better rates would count as a gain of the weights. None are needed if the
    reference has no rates, or if it is at least as good as the candidate already.
    """
    space, finals = plan.space, finalist_retrainings
    best, uniform = (best_candidate(finals, role) for role in _TRAINED)
    if best is None or not _may_be_matched(plan):
        return []
    gain = mean_score(finals, "searched", best)
    if uniform is not None and mean_score(finals, "uniform", uniform) >= gain:
        return []
    params = space.active({**ranked_trials.trials[best].params, **space.reference()})
    return [Retraining(Candidate(best, params, "uniform"), j) for j in range(plan.seeds)]


def test_runs(
    plan: Plan, ranked_trials: RankedTrials, finalist_retrainings: Sequence[StudiedTrial]
) -> list[Retraining]:
    """Tests of the best searched and the best uniform candidate, from their last checkpoints.

    All retrained candidates count, also those of a search that then got more trials.
    """
    ended = {_key_of(t): t.number for t in finalist_retrainings if t.state == "complete"}
    found = []
    for role in _TRAINED:
        number = best_candidate(finalist_retrainings, role)
        if number is None:
            continue
        reference = plan.space.reference() if role == "uniform" else {}
        params = plan.space.active({**ranked_trials.trials[number].params, **reference})
        found += [
            Retraining(Candidate(number, params, role), j, f"final-{ended[role, number, j]:04d}")
            for j in range(plan.seeds)
            if (role, number, j) in ended
        ]
    return found
