"""Asynchronous successive halving.

Li et al., "A system for massively parallel hyperparameter tuning", MLSys 2020; the stopping
variant: a trial goes on from a rung if it is among the best 1/eta that have reached it so far.
"""

import math
from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a trial goes on, and why."""

    go_on: bool
    reason: str


class Peers:
    """The scores of the trials that have reached a rung, by trial."""

    def __init__(self) -> None:
        self._of: dict[int, float] = {}
        self._ranked: list[float] = []  # ascending, without NaN

    def put(self, number: int, score: float) -> None:
        """Trial `number` has reached the rung; what it had reached it with before is forgotten."""
        before = self._of.get(number, math.nan)
        if not math.isnan(before):
            del self._ranked[bisect_left(self._ranked, before)]
        self._of[number] = score
        if not math.isnan(score):
            insort(self._ranked, score)

    def promote(self, score: float, eta: float) -> Decision:
        """Decide on a trial with `score`, itself among those that have been `put`.

        eta: > 1; about one of eta trials goes on. Ties go on. A score of NaN never does. Trials
        that reach a rung together are put before any is decided on: their order is nothing.
        """
        if math.isnan(score):
            return Decision(False, "diverged")
        n = len(self._ranked)
        keep = max(1, math.ceil(n / eta))
        place = n - bisect_right(self._ranked, score) + 1
        reason = f"place {place} of {n} at this rung, {keep} go on"
        return Decision(score >= self._ranked[n - keep], reason)
