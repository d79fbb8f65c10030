"""Confidence intervals of means over seeds and tasks, with the verdict that is based on them."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

Verdict = Literal["better", "no better", "undecided"]
# A smaller gain, in accuracy or skill, is negligible.
NEGLIGIBLE = 0.01
# Fewer tasks than this are not treated as a sample of all tasks.
MIN_TASKS = 3


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval.

    note: what the interval does not cover, or why it is missing; then both ends are NaN.
    """

    mean: float
    low: float
    high: float
    note: str = ""


def standard_error(table: np.ndarray, *, of_tasks: bool) -> tuple[float, float]:
    """Standard error of the mean of a table (seeds, tasks) and its degrees of freedom.

    Both are NaN if the table has one value along each sampled axis. of_tasks: whether the tasks are
    a random sample too, rather than the only tasks of interest. Then the variance of the mean is
    the sum of the variance over seeds and the variance over tasks, with Satterthwaite's degrees of
    freedom. It is slightly too large, because the residual variance is counted twice.
    """
    means = [table.mean(axis=1)] + ([table.mean(axis=0)] if of_tasks else [])
    parts = [(m.var(ddof=1) / len(m), len(m) - 1) for m in means if len(m) > 1]
    variance = sum(v for v, _ in parts)
    if variance <= 0:
        return (0.0, math.inf) if parts else (math.nan, math.nan)
    return math.sqrt(variance), variance**2 / sum(v**2 / df for v, df in parts)


def interval(
    table: np.ndarray, *, of_tasks: bool, within: tuple[float, float] = (-math.inf, math.inf)
) -> Interval:
    """Mean of a table (seeds, tasks) of scores or differences, with its 95 % interval.

    of_tasks: as in `standard_error`; fewer than `MIN_TASKS` tasks are not treated as a sample, and
    the note says so. within: the range of possible values, to which the interval is clipped.
    """
    sampled = of_tasks and table.shape[1] >= MIN_TASKS
    error, freedom = standard_error(table, of_tasks=sampled)
    mean = float(table.mean())
    if not freedom >= 2:
        seeds = "1 seed is" if len(table) == 1 else f"{len(table)} seeds are"
        return Interval(mean, math.nan, math.nan, f"{seeds} too few for an interval")
    from scipy.stats import t as student  # importing it takes a second

    half = float(student.ppf(0.975, freedom)) * error
    low, high = max(within[0], mean - half), min(within[1], mean + half)
    return Interval(mean, low, high, _few_tasks(table.shape[1]) if of_tasks and not sampled else "")


def _few_tasks(n: int) -> str:
    tasks = "1 task is" if n == 1 else f"{n} tasks are"
    return f"over seeds only: {tasks} too few to represent others"


def verdict(difference: Interval, negligible: float = NEGLIGIBLE) -> Verdict:
    """Better if the interval is above 0; no better if it is below `negligible`; else undecided."""
    if difference.low > 0:
        return "better"
    if difference.high < negligible:
        return "no better"
    return "undecided"
