"""How well the similarity of training tasks agrees with the effects that a search found."""

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from orchestrator.search.finals.intervals import Interval
from trials.programs.similarity.similarity import MEASURES, Similarity

# A rank correlation of fewer tasks says nothing.
_FEWEST = 4
_NORMAL = 1.96  # standard errors in half a 95 % interval


class Effect(Protocol):
    """The part of `explanation.TaskEffect` that is compared."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """The training tasks that share one weight."""

    @property
    def effect(self) -> Interval:
        """The effect of their weight on the score."""


def agreement(found: Similarity, effects: Sequence[Effect]) -> dict[str, Interval]:
    """Spearman's rank correlation of each measure, and of the affinity, with the effects found.

    effects: `summary.explanation.effects`. Tasks that share one weight count once, by their mean
    similarity. Ends are NaN, with a note, for fewer than four tasks or unknown effects.
    """
    by_measure: dict[str, Mapping[str, float]] = {
        measure: {task: one.mean for task, one in found.means(measure).items()}
        for measure in MEASURES
        if measure in found.tables
    }
    if found.affinity:
        by_measure["affinity"] = found.affinity
    known = np.array([effect.effect.mean for effect in effects])
    return {
        name: rank_correlation(
            np.array([np.mean([values[task] for task in effect.tasks]) for effect in effects]),
            known,
        )
        for name, values in by_measure.items()
    }


def rank_correlation(a: np.ndarray, b: np.ndarray) -> Interval:
    """Spearman's rank correlation of a (n,) and b (n,) with its 95 % interval.

    The interval is Fisher's, with the standard error sqrt((1 + r^2 / 2) / (n - 3)) of Bonett and
    Wright, "Sample size requirements for estimating Pearson, Kendall and Spearman correlations",
    Psychometrika, 2000. It treats the tasks as a sample, and the values as exact.
    """
    n = len(a)
    if n < _FEWEST:
        return Interval(math.nan, math.nan, math.nan, f"{n} tasks are too few")
    if not np.isfinite([a, b]).all():
        return Interval(math.nan, math.nan, math.nan, "the effects are not known")
    from scipy.stats import spearmanr  # importing it takes a second

    if len(set(a.tolist())) == 1 or len(set(b.tolist())) == 1:
        return Interval(math.nan, math.nan, math.nan, "all values are equal")
    r = float(spearmanr(a, b).statistic)
    half = _NORMAL * math.sqrt((1 + r**2 / 2) / (n - 3))
    middle = math.atanh(max(-1 + 1e-9, min(1 - 1e-9, r)))
    return Interval(r, math.tanh(middle - half), math.tanh(middle + half))
