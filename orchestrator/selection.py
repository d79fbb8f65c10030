"""Which trial is best, and how sure that is.

The best observed score is an optimist: it was picked because it was high. So the top trials and the
best reference are trained again with new seeds, and the choice between them is made on fresh
episodes; only the chosen one and the reference are then shown the test tasks.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np
from scipy.stats import t as student

from orchestrator.standings import Standings
from orchestrator.study import Studied

Verdict = Literal["better", "no better", "undecided"]

# A gain of less than this, in accuracy or skill, is not worth having.
NEGLIGIBLE = 0.01


@dataclass(frozen=True)
class Candidate:
    """A trial of the search that is trained again; `reference` marks the one to beat."""

    number: int
    params: Mapping[str, float]
    reference: bool


def best_candidate(finals: Sequence[Studied], *, reference: bool) -> int | None:
    """The candidate with the best mean over the seeds, none of which diverged; None if all have."""
    scores: dict[int, list[float]] = {}
    for trial in finals:
        if trial.notes["reference"] is reference:
            score = trial.score if trial.state == "complete" else -math.inf
            scores.setdefault(trial.notes["candidate"], []).append(score)
    means = {n: sum(s) / len(s) for n, s in scores.items() if -math.inf not in s}
    return max(means, key=lambda number: (means[number], -number), default=None)


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float


def candidates(standings: Standings, n: int) -> list[Candidate]:
    """The best complete trial that is the reference, and the best `n` that are not.

    While trials are running, only those whom none of the running can push out: a reference if no
    other runs, and of the best `n` as many as if every running trial were to come in first.
    """
    running = [standings.is_reference(t) for t in standings.running]
    references = islice(standings.complete(reference=True), 0 if any(running) else 1)
    found = islice(standings.complete(reference=False), max(0, n - running.count(False)))
    return [Candidate(t.number, t.params, True) for t in references] + [
        Candidate(t.number, t.params, False) for t in found
    ]


def interval(table: np.ndarray, *, of_tasks: bool) -> Interval:
    """Mean of a table (seeds, tasks) of scores or differences, with its 95 % interval.

    of_tasks: whether the tasks too are taken for a sample of those that might have been, and not
    for the only ones of interest. Then the variance of the mean is the sum of what each way of
    averaging shows, with Satterthwaite's degrees of freedom. That is a little too wide, as what is
    left after both is counted twice. A single task adds nothing: the interval speaks of the seeds.
    """
    means = [table.mean(axis=1)] + ([table.mean(axis=0)] if of_tasks else [])
    parts = [(m.var(ddof=1) / len(m), len(m) - 1) for m in means if len(m) > 1]
    variance = sum(v for v, _ in parts)
    mean = float(table.mean())
    if variance <= 0:
        return Interval(mean, mean, mean) if parts else Interval(mean, math.nan, math.nan)
    freedom = variance**2 / sum(v**2 / df for v, df in parts)
    half = float(student.ppf(0.975, freedom)) * math.sqrt(variance)
    return Interval(mean, mean - half, mean + half)


def verdict(difference: Interval, negligible: float = NEGLIGIBLE) -> Verdict:
    """Better if the interval excludes no gain; no better if it excludes a gain worth having."""
    if difference.low > 0:
        return "better"
    if difference.high < negligible:
        return "no better"
    return "undecided"
