"""The effect of each training task's share on the score, and the ranges of good shares."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from orchestrator.results.explanation.score_model import Estimates, ScoreModel
from orchestrator.search.finals.intervals import Interval

Array = np.ndarray
Effect = Literal["helps", "harms", "not needed", "cannot be told"]

# The share that a task gets in place of none.
STEP = 0.1
# Effects are averaged over at most this many mixtures of a search.
_MIXTURES = 32
# Candidates for good mixtures: the means of any two of this many best ones, and the best one with
# each share moved to each of these values.
_BEST, _MOVES = 12, (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
_NORMAL = 1.96  # standard errors in half a 95 % interval


@dataclass(frozen=True)
class Mixtures:
    """Shares (m, g) of g tasks in m mixtures, and the scalar features (s,) at which f is read."""

    shares: Array
    scalars: Array

    def means(self, model: ScoreModel, shares: Array) -> Array:
        """The expected score at n mixtures, (n,)."""
        return model.means(np.sqrt(shares), np.repeat(self.scalars[None], len(shares), 0))

    def differences(self, model: ScoreModel, shares: Array, coefficients: Array) -> Estimates:
        """Differences, with coefficients (k, n), of the score at n mixtures."""
        scalars = np.repeat(self.scalars[None], len(shares), 0)
        return model.estimates(np.sqrt(shares), scalars, coefficients)


def mixtures(searched: Array, scalars: Array) -> Mixtures:
    """The uniform mixture and those of a search (n, g), each once, in their order."""
    n_tasks = searched.shape[1]
    every = np.concatenate([np.full((1, n_tasks), 1 / n_tasks), searched])
    firsts = np.sort(np.unique(np.round(every, 9), axis=0, return_index=True)[1])
    return Mixtures(every[firsts], scalars)


def effects(model: ScoreModel, of: Mixtures) -> list[Interval]:
    """For each task the mean change of the score if it gets a share of .1 instead of none.

    The other tasks keep their proportions. The mean is over the mixtures, from each of which the
    task is first removed: mean of f(.9 w + .1 e_i) - f(w), where w is the mixture without task i.
    The interval is that of this difference, so errors that both sides share cancel.
    """
    rows = np.linspace(0, len(of.shares) - 1, min(_MIXTURES, len(of.shares))).astype(int)
    signs = np.repeat([[-1.0, 1.0]], len(rows), 1) / len(rows)
    found = []
    for task in range(of.shares.shape[1]):
        absent = with_share(of.shares[rows], task, 0.0)
        pair = np.concatenate([absent, with_share(absent, task, STEP)])
        estimates = of.differences(model, pair, signs)
        mean, error = float(estimates.mean[0]), float(estimates.error[0])
        found.append(Interval(mean, mean - _NORMAL * error, mean + _NORMAL * error))
    return found


def with_share(shares: Array, task: int, share: float) -> Array:
    """Mixtures (m, g) in which one task has this share; the others keep their proportions."""
    others = shares.copy()
    others[:, task] = 0.0
    total = others.sum(1, keepdims=True)
    equal = np.full(shares.shape[1], 1 / (shares.shape[1] - 1))
    equal[task] = 0.0
    # Where a task has the whole weight, the others have no proportions.
    others = np.where(total > 1e-9, others / np.maximum(total, 1e-9), equal)
    others *= 1 - share
    others[:, task] = share
    return others


def effect_of(
    interval: Interval, good: tuple[float, float] = (0.0, 1.0), uniform: float = 0.0
) -> Effect:
    """Helps if the interval is above 0, harms if it is below 0.

    good: the lowest and the highest share of the task among mixtures as good as the best. If some
    of them are without the task, and none gives it more than half of the `uniform` share, the
    task is not needed, although its effect cannot be told.
    """
    if interval.low > 0:
        return "helps"
    if interval.high < 0:
        return "harms"
    least, most = good
    return "not needed" if least == 0 and most <= uniform / 2 else "cannot be told"


def good_shares(model: ScoreModel, of: Mixtures) -> tuple[Array, Array]:
    """The lowest and highest share of each task, (g,), among mixtures as good as the best.

    A mixture is as good if its expected score is below the highest one by at most one standard
    error of their difference.
    """
    ranked = of.shares[np.argsort(-of.means(model, of.shares), kind="stable")]
    best = ranked[: min(_BEST, len(ranked))]
    left, right = np.triu_indices(len(best), 1)
    moved = [with_share(best[:1], i, x) for i in range(best.shape[1]) for x in _MOVES]
    every = np.concatenate([ranked, (best[left] + best[right]) / 2, *moved])
    every = every[np.sort(np.unique(np.round(every, 9), axis=0, return_index=True)[1])]
    top = int(np.argmax(of.means(model, every)))
    mean, error = of.differences(model, every, np.eye(len(every))[top] - np.eye(len(every)))
    good = every[mean <= error + 1e-9]
    return good.min(0), good.max(0)
