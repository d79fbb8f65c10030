"""Confidence intervals of means over seeds and tasks, with the verdict that is based on them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Verdict = Literal["better", "no better", "undecided"]
# A smaller gain, in accuracy or skill, is negligible.
NEGLIGIBLE = 0.01
# Deviations that are no larger than this part of the values are rounding errors.
_ROUNDING = 1e-13
# Fewer tasks than this are not treated as a sample of all tasks.
MIN_TASKS = 3


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval.

    note: what the interval covers or does not, or why it is missing; then both ends are NaN.
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
    rounding = (_ROUNDING * np.abs(table).max()) ** 2
    variances = [(m.var(ddof=1) / len(m), len(m) - 1) for m in means if len(m) > 1]
    return _summed([(v if v > rounding else 0.0, df) for v, df in variances])


def _summed(parts: Sequence[tuple[float, int]]) -> tuple[float, float]:
    """Standard error and degrees of freedom of a sum of independent parts with theirs.

    parts: variances with their degrees of freedom.
    """
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
    error = standard_error(table, of_tasks=sampled)
    note = _few_tasks(table.shape[1]) if of_tasks and not sampled else ""
    return _interval(float(table.mean()), error, within, note, n_seeds=len(table))


def interval_of_problems(
    tables: Sequence[np.ndarray], *, within: tuple[float, float] = (-math.inf, math.inf)
) -> Interval:
    """Mean over tasks of tables (seeds, problems) with its 95 % interval over seeds and problems.

    The tasks are the only ones of interest; their problems, such as goals or schools, are random
    samples. The variance of the mean is the sum of the variances over seeds and over the problems
    of each task, as in `standard_error`.
    """
    by_seed = np.mean([table.mean(axis=1) for table in tables], axis=0)
    n_seeds, n_tasks = len(by_seed), len(tables)
    parts = [(float(by_seed.var(ddof=1)) / n_seeds, n_seeds - 1)] if n_seeds > 1 else []
    parts += [
        (float(means.var(ddof=1)) / len(means) / n_tasks**2, len(means) - 1)
        for means in (table.mean(axis=0) for table in tables)
        if len(means) > 1
    ]
    n = sum(table.shape[1] for table in tables)
    note = f"over {'seeds and ' if n_seeds > 1 else ''}{n} problems"
    return _interval(float(by_seed.mean()), _summed(parts), within, note, n_seeds=n_seeds)


def _interval(
    mean: float,
    error: tuple[float, float],
    within: tuple[float, float],
    note: str,
    *,
    n_seeds: int,
) -> Interval:
    """The interval of a mean with this standard error and degrees of freedom."""
    if not error[1] >= 2:
        seeds = "1 seed is" if n_seeds == 1 else f"{n_seeds} seeds are"
        return Interval(mean, math.nan, math.nan, f"{seeds} too few for an interval")
    from scipy.stats import t as student  # importing it takes a second

    half = float(student.ppf(0.975, error[1])) * error[0]
    return Interval(mean, max(within[0], mean - half), min(within[1], mean + half), note)


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
