"""The choice of the best candidate among the finalists.

The best observed score of a search is too high on average, because it was selected for being high.
So the top trials and the best uniform trial are retrained with new seeds, and the best candidate is
chosen on fresh episodes. Only the chosen candidates and the untrained model are scored on the test
tasks.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from orchestrator.record.studies.study import StudiedTrial
from orchestrator.sampling.ranked_trials import RankedTrials

# The kinds of models that a search compares. `searched`: a trial of the search. Two references:
# `uniform`, equal task weights with tuned rates; `untrained`, no meta-training at all.
Role = Literal["searched", "uniform", "untrained"]


@dataclass(frozen=True)
class Candidate:
    """A model to score on fresh episodes.

    number: its trial in the search, None if untrained. A `uniform` candidate may have the number of
    a trial with other weights: it has this trial's rates and choices.
    """

    number: int | None
    params: Mapping[str, float]
    role: Role


UNTRAINED = Candidate(None, {}, "untrained")


def role_of(trial: StudiedTrial) -> Role:
    """The role of a trial of stage `final` or `test`; studies of version 0.1 have two roles."""
    if "role" in trial.notes:
        role: Role = trial.notes["role"]
        return role
    return "uniform" if trial.notes["reference"] else "searched"


def best_candidate(
    finals: Sequence[StudiedTrial], role: Literal["searched", "uniform"]
) -> int | None:
    """The candidate of a role with the best mean over its seeds.

    A candidate is excluded if one of its retrainings is not complete; None if all are excluded.
    """
    numbers = {t.notes["candidate"] for t in finals if role_of(t) == role}
    means = {n: mean_score(finals, role, n) for n in numbers}
    kept = [n for n in numbers if means[n] > -math.inf]
    return max(kept, key=lambda number: (means[number], -number), default=None)


def mean_score(finals: Sequence[StudiedTrial], role: Role, number: int) -> float:
    """The mean score of a candidate's retrainings; minus infinity unless all are complete."""
    own = [t for t in finals if role_of(t) == role and t.notes["candidate"] == number]
    scores = [t.score if t.state == "complete" else -math.inf for t in own]
    return sum(scores) / len(scores)


def candidates(ranked_trials: RankedTrials, n: int) -> list[Candidate]:
    """The best complete trial with uniform weights, and the best `n` other complete trials.

    While trials are running, the result contains only candidates that no running trial can replace:
    the uniform trial if no other one is running, and the best n - r other trials if r are running.
    """
    running = [ranked_trials.is_reference(t) for t in ranked_trials.running]
    references = islice(ranked_trials.complete(reference=True), 0 if any(running) else 1)
    others = islice(ranked_trials.complete(reference=False), max(0, n - running.count(False)))
    return [Candidate(t.number, t.params, "uniform") for t in references] + [
        Candidate(t.number, t.params, "searched") for t in others
    ]
