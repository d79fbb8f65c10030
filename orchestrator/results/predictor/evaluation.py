"""Measures of predictions on labelled examples, with 95 % intervals."""

import math
from typing import Any, NamedTuple

import numpy as np

_RESAMPLES = 1000
_Z = 1.96


class Measured(NamedTuple):
    """A measure with the ends of its 95 % interval over new examples of the same kind."""

    value: float
    low: float
    high: float


def class_measures(
    truth: "np.ndarray[Any, Any]", predicted: "np.ndarray[Any, Any]"
) -> dict[str, Measured]:
    """Accuracy (Wilson's interval) and macro-F1 (bootstrap) of n >= 1 predicted classes.

    Macro-F1 is the mean over the classes that are present or predicted, as in scikit-learn.
    """
    names, codes = np.unique(np.concatenate([truth, predicted]).astype(str), return_inverse=True)
    n, c = len(truth), len(names)
    counts = np.zeros((c, c))
    np.add.at(counts, (codes[:n], codes[n:]), 1)
    # A resample of the examples is a resample of the cells of the confusion matrix.
    rng = np.random.default_rng(0)
    draws = rng.multinomial(n, (counts / n).ravel(), size=_RESAMPLES).reshape(-1, c, c)
    low, high = np.quantile([_macro_f1(draw) for draw in draws], [0.025, 0.975])
    f1 = Measured(_macro_f1(counts), float(low), float(high))
    return {"accuracy": _wilson(float(np.trace(counts)), n), "macro_f1": f1}


def number_measures(
    truth: "np.ndarray[Any, Any]", predicted: "np.ndarray[Any, Any]"
) -> dict[str, Measured]:
    """Mean squared error, and 1 - MSE / variance (`skill`), of n >= 1 predicted numbers."""
    rng = np.random.default_rng(0)
    rows = rng.integers(0, len(truth), size=(_RESAMPLES, len(truth)))
    errors = np.square(predicted - truth)
    own = {"mse": float(errors.mean())}
    drawn = {"mse": errors[rows].mean(1)}
    if truth.var() > 0:
        spread = truth[rows].var(1)
        own["skill"] = 1 - own["mse"] / float(truth.var())
        drawn["skill"] = 1 - drawn["mse"][spread > 0] / spread[spread > 0]
    ends = {name: np.quantile(values, [0.025, 0.975]) for name, values in drawn.items()}
    return {name: Measured(own[name], *map(float, ends[name])) for name in own}


def _macro_f1(counts: "np.ndarray[Any, Any]") -> float:
    total = counts.sum(0) + counts.sum(1)
    occurs = total > 0
    return float((2 * np.diagonal(counts)[occurs] / total[occurs]).mean())


def _wilson(right: float, n: int) -> Measured:
    share, z = right / n, _Z
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Measured(share, max(0.0, middle - half), min(1.0, middle + half))
