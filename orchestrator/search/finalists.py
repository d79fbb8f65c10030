"""Which model is best, and how sure that is.

The best observed score is too high on average: it was picked because it was high. So the top trials
and the best uniform trial are trained again with new seeds, and the choice between them is made on
fresh episodes. Only the chosen ones and the untrained model are then scored on the test tasks.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from orchestrator.record.study import StudiedTrial
from orchestrator.sampling.ranked_trials import RankedTrials

# What a search compares. `searched`: a trial that the search found. The two references: `uniform`,
# equal task weights with tuned rates; `untrained`, no meta-training at all.
Role = Literal["searched", "uniform", "untrained"]


@dataclass(frozen=True)
class Candidate:
    """What is scored again on fresh episodes; `number` is of the search's trial, if it was one."""

    number: int | None
    params: Mapping[str, float]
    role: Role


UNTRAINED = Candidate(None, {}, "untrained")


def role_of(trial: StudiedTrial) -> Role:
    """Of a trial of the finals or the tests; studies of version 0.1 know two roles only."""
    if "role" in trial.notes:
        role: Role = trial.notes["role"]
        return role
    return "uniform" if trial.notes["reference"] else "searched"


def best_candidate(
    finals: Sequence[StudiedTrial], role: Literal["searched", "uniform"]
) -> int | None:
    """The candidate of a role with the best mean over the seeds; None if all have diverged."""
    scores: dict[int, list[float]] = {}
    for trial in finals:
        if role_of(trial) == role:
            score = trial.score if trial.state == "complete" else -math.inf
            scores.setdefault(trial.notes["candidate"], []).append(score)
    means = {n: sum(s) / len(s) for n, s in scores.items() if -math.inf not in s}
    return max(means, key=lambda number: (means[number], -number), default=None)


def candidates(ranked_trials: RankedTrials, n: int) -> list[Candidate]:
    """The best complete trial with uniform weights, and the best `n` others.

    While trials are running, only those whom none of the running can push out: a reference if no
    other runs, and of the best `n` as many as if every running trial were to come in first.
    """
    running = [ranked_trials.is_reference(t) for t in ranked_trials.running]
    references = islice(ranked_trials.complete(reference=True), 0 if any(running) else 1)
    found = islice(ranked_trials.complete(reference=False), max(0, n - running.count(False)))
    return [Candidate(t.number, t.params, "uniform") for t in references] + [
        Candidate(t.number, t.params, "searched") for t in found
    ]
