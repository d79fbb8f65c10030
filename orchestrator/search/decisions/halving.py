"""Asynchronous successive halving.

Li et al., "A system for massively parallel hyperparameter tuning", MLSys 2020; the stopping
variant: a trial continues past a rung if it is among the best 1/eta that have reached it so far.
"""

import math
from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass

from trials.contract import Outcome


@dataclass(frozen=True, slots=True)
class Decision:
    """The decision on a trial at a rung: its outcome, or None if it continues, with the reason."""

    outcome: Outcome | None
    reason: str


class RungScores:
    """The scores of all trials that have reached one rung, by trial number."""

    def __init__(self) -> None:
        self._of: dict[int, float] = {}
        self._ranked: list[float] = []  # ascending, without NaN

    def add(self, number: int, score: float) -> None:
        """Record the score of trial `number`; it replaces an earlier score of the same trial."""
        before = self._of.get(number, math.nan)
        if not math.isnan(before):
            del self._ranked[bisect_left(self._ranked, before)]
        self._of[number] = score
        if not math.isnan(score):
            insort(self._ranked, score)

    def decide(self, score: float, eta: float) -> Decision:
        """Decide on a trial whose `score` has been added.

        eta: > 1; about one trial in eta continues. Ties continue. A score of NaN is a failure.
        Add the scores of all trials that reach a rung together before deciding on any of them:
        then the decisions do not depend on their order.
        """
        if math.isnan(score):
            return Decision("failed", "diverged")
        n = len(self._ranked)
        keep = max(1, math.ceil(n / eta))
        place = n - bisect_right(self._ranked, score) + 1
        reason = f"rank {place} of {n} at this rung, the best {keep} continue"
        return Decision(None if score >= self._ranked[n - keep] else "pruned", reason)
