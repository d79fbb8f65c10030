"""Asynchronous successive halving, as a pure function.

Li et al., "A system for massively parallel hyperparameter tuning", MLSys 2020; the stopping
variant: a trial goes on from a rung if it is among the best 1/eta that have reached it so far.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a trial goes on, and why."""

    go_on: bool
    reason: str


def promote(score: float, peers: Iterable[float], eta: float) -> Decision:
    """Decide on a trial with `score` at a rung that `peers` (itself among them) have reached.

    eta: > 1; about one of eta trials goes on. Ties go on. A score of NaN never does. The order of
    `peers` does not matter: trials that reach a rung together are judged by the same list.
    """
    if math.isnan(score):
        return Decision(False, "diverged")
    ranked = sorted((p for p in peers if not math.isnan(p)), reverse=True)
    keep = max(1, math.ceil(len(ranked) / eta))
    threshold = ranked[keep - 1]
    place = sum(p > score for p in ranked) + 1
    reason = f"place {place} of {len(ranked)} at this rung, {keep} go on"
    return Decision(score >= threshold, reason)
