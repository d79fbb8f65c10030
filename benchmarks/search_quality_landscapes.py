"""Scores as known functions of task weights and rates, on which searches are compared.

A landscape gives the true score of a trial after the last step. The synthetic ones have three
learning rates beside the weights. The two of RegMix are mixing laws, fitted to the validation
losses of 768 language models that were trained with 17 shares of the Pile (Liu et al., "RegMix",
ICLR 2025; the law is that of Ye et al., "Data Mixing Laws", 2024).
"""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import least_squares

from orchestrator.space.search_space import Range, SearchSpace
from orchestrator.space.simplex import Simplex

Array = np.ndarray
RATES = ("lr/outer", "lr/inner", "lr/adapt")
_LOW, _HIGH = 1e-4, 1e-1
_TRAIN, _LOSS = "train_the_pile_", "metric/the_pile_"


@dataclass(frozen=True)
class Landscape:
    """A function to maximise.

    of_weights: the score that weights (n,) and the best rates give. best: its maximum.
    affinity: the effect of each task's share near equal weights, (n,): what a perfect measurement
    of the tasks' similarity would tell a search.
    """

    of_weights: Callable[[Array], float]
    best: float
    affinity: Array
    rates: Array | None = None  # the best rates, as shares of their ranges (3,)

    @property
    def space(self) -> SearchSpace:
        n = len(self.affinity)
        names = tuple(f"task_{i}" for i in range(n))
        ranges = (
            {rate: Range(_LOW, _HIGH, log=True) for rate in RATES} if self.rates is not None else {}
        )
        return SearchSpace(ranges, {}, Simplex(names, (1 / n,) * n, zero_below=0.1 / n))

    def score(self, hyperparameters: Mapping[str, float], weights: Mapping[str, float]) -> float:
        """The true score of a trial."""
        score = self.of_weights(np.array(list(weights.values())))
        if self.rates is None:
            return score
        space = self.space
        away = [space.ranges[name].share(hyperparameters[name]) for name in RATES] - self.rates
        return score - 0.3 * (1 - math.exp(-np.square(away / 0.25).sum()))


def divergence(n: int, optimum: Array, rates: Array) -> Landscape:
    """The score falls by up to 15 points as the KL divergence from the optimum (n,) grows."""

    def of_weights(w: Array) -> float:
        kl = np.sum(optimum * np.log(np.maximum(optimum, 1e-12) / np.maximum(w, 1e-6)))
        return float(0.7 - 0.15 * (1 - math.exp(-max(0.0, kl))))

    return Landscape(of_weights, 0.7, optimum - 1 / n, rates)


def sparse(n: int, rng: np.random.Generator) -> Landscape:
    """Two or three of the tasks are of use."""
    shares = np.zeros(n)
    useful = (0.5, 0.3, 0.2) if rng.random() < 0.5 else (0.65, 0.35)
    shares[: len(useful)] = useful
    return divergence(n, rng.permutation(shares), _rates(rng))


def dense(n: int, rng: np.random.Generator) -> Landscape:
    """All tasks are of use, some several times as much as others."""
    shares = np.exp(0.7 * rng.standard_normal(n))
    return divergence(n, shares / shares.sum(), _rates(rng))


def saturating(n: int, rng: np.random.Generator) -> Landscape:
    """A share of .1 brings 63 % of a task's effect, which is positive or negative by chance."""
    effects = 0.1 * rng.standard_normal(n)

    def of_weights(w: Array) -> float:
        return float(0.5 + effects @ (1 - np.exp(-w / 0.1)))

    return Landscape(of_weights, _maximum(of_weights, n), effects, _rates(rng))


def spoiled(n: int, rng: np.random.Generator) -> Landscape:
    """One task helps, half of the others harm a little, the rest harm much.

    The figures are those of a pretrained encoder that is trained on intents (docs/log.md).
    """
    effects = np.array([0.05] + [-0.03] * ((n - 1) // 2) + [-0.25] * (n // 2))
    effects = rng.permutation(effects * np.exp(0.3 * rng.standard_normal(n)))

    def of_weights(w: Array) -> float:
        return float(0.8 + effects @ (1 - np.exp(-w / 0.3)))

    return Landscape(of_weights, _maximum(of_weights, n), effects, _rates(rng))


def grouped(n: int, groups: int, rng: np.random.Generator) -> Landscape:
    """Tasks of a group have similar effects; a share of .1 brings 63 % of a task's effect."""
    of = rng.permutation(np.arange(n) % groups)
    of_groups = rng.standard_normal(groups)
    of_groups *= np.sign(of_groups.max())  # one of them helps
    effects = 0.1 * of_groups[of] + 0.03 * rng.standard_normal(n)

    def of_weights(w: Array) -> float:
        return float(0.5 + effects @ (1 - np.exp(-w / 0.1)))

    return Landscape(of_weights, of_weights(_filled(effects, 0.1)), effects, _rates(rng))


def _filled(effects: Array, scale: float) -> Array:
    """The weights (n,) that maximise the sum of effects * (1 - exp(-weights / scale)).

    The derivatives of all weights above 0 are equal, to a number that is found by bisection.
    """
    low, high = -50.0, math.log(max(effects.max(), 1e-9) / scale)
    useful = np.maximum(effects, 1e-300)
    for _ in range(200):
        level = (low + high) / 2
        weights = scale * np.maximum(0, np.log(useful / scale) - level)
        low, high = (level, high) if weights.sum() > 1 else (low, level)
    return np.asarray(weights / weights.sum())


def equal(n: int, rng: np.random.Generator) -> Landscape:
    """All tasks are equally good: the weights have no effect."""
    return Landscape(lambda w: 0.6, 0.6, np.zeros(n), _rates(rng))


def _rates(rng: np.random.Generator) -> Array:
    return rng.uniform(0.25, 0.75, len(RATES))


def _maximum(of_weights: Callable[[Array], float], n: int) -> float:
    """The maximum over the simplex, by moving share between pairs of tasks in smaller steps."""
    best = -math.inf
    for start in [np.full(n, 1 / n), *np.eye(n)]:
        w, score, step = start, of_weights(start), 0.5
        while step > 1e-3:
            moved = max(
                (_moved(w, i, j, step) for i in range(n) for j in range(n) if i != j),
                key=of_weights,
            )
            if of_weights(moved) > score + 1e-9:
                w, score = moved, of_weights(moved)
            else:
                step /= 2
        best = max(best, score)
    return best


def _moved(w: Array, i: int, j: int, step: float) -> Array:
    moved = w.copy()
    share = min(step, w[i])
    moved[i] -= share
    moved[j] += share
    return moved


@cache
def _regmix() -> tuple[Array, pd.DataFrame]:
    folder = Path(os.environ["FEWTUNE_DATA"]) / "regmix"
    tables = []
    for kind in ("mixture", "pile_loss"):
        parts = [pd.read_csv(folder / f"{split}_{kind}_1m.csv") for split in ("train", "test")]
        tables.append(pd.concat(parts).drop(columns="index"))
    shares = tables[0].to_numpy()
    return shares / shares.sum(1, keepdims=True), tables[1]


@cache
def regmix(which: str) -> Landscape:
    """The mean of the 13 losses (`mean`), or one of them.

    The score is scaled so that its standard deviation over the 768 mixtures is .1.

    Each loss is a constant plus an exponential of a linear function of the shares.
    """
    shares, losses = _regmix()
    names = list(losses) if which == "mean" else [f"{_LOSS}{which}_val_loss"]
    laws = [_law(shares, losses[name].to_numpy()) for name in names]

    def loss(w: Array) -> Array:
        return np.mean([c + np.exp(b + w @ t) for c, b, t in laws], axis=0)

    middle, spread = loss(shares).mean(), loss(shares).std()

    def of_weights(w: Array) -> float:
        return float(0.5 - 0.1 * (loss(w) - middle) / spread)

    n = shares.shape[1]
    uniform = np.full(n, 1 / n)
    slopes = [of_weights(_moved(0.9 * uniform, i, i, 0) + 0.1 * np.eye(n)[i]) for i in range(n)]
    return Landscape(of_weights, _maximum(of_weights, n), np.array(slopes))


def _law(shares: Array, losses: Array) -> tuple[float, float, Array]:
    """c, b, t of the law c + exp(b + t w) that fits best."""
    n = shares.shape[1]
    least = losses.min()
    start = np.concatenate([[0.7 * least, math.log(losses.mean() - 0.7 * least)], np.zeros(n)])

    def residuals(x: Array) -> Array:
        return np.asarray(x[0] + np.exp(x[1] + shares @ x[2:]) - losses)

    x = least_squares(residuals, start, loss="soft_l1", f_scale=0.1).x
    return x[0], x[1], x[2:]


PROBLEMS: Mapping[str, Callable[[np.random.Generator], Landscape]] = {
    "sparse_8": lambda rng: sparse(8, rng),
    "sparse_20": lambda rng: sparse(20, rng),
    "dense_8": lambda rng: dense(8, rng),
    "saturating_12": lambda rng: saturating(12, rng),
    "spoiled_21": lambda rng: spoiled(21, rng),
    "grouped_24": lambda rng: grouped(24, 6, rng),
    "regmix_mean": lambda rng: regmix("mean"),
    "regmix_pile_cc": lambda rng: regmix("pile_cc"),
}
