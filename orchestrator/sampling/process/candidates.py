"""Random points, for the first trials and as candidates of the acquisition function."""

import math

import numpy as np

from orchestrator.sampling.process.points import Coordinates, Points

Array = np.ndarray

# The concentration of shares is drawn from this range, on a log scale: from sparse weights, and
# single tasks if there are few, to weights spread over most tasks.
_CONCENTRATION = 0.03, 3.0
# Affinities count as at least this share of their mean: they can be wrong.
_LEAST_AFFINITY = 0.05
# Near a point, this part of the choices without an order is drawn anew.
_REDRAWN = 0.2
# Part of the recombined points that have the shares of a point, and of those that have its scalars.
_KEPT = 0.5
_TINY = 1e-12


def anywhere(n: int, coordinates: Coordinates, rng: np.random.Generator) -> Points:
    """n points from the whole space.

    The shares are drawn from Dirichlet distributions of different concentrations. Their mean is the
    prior, multiplied by the affinities to a power that is drawn from [0, 1].
    """
    scalars = rng.uniform(size=(n, coordinates.n_scalars))
    if coordinates.simplex is None:
        return Points(np.zeros((n, 0)), scalars)
    low, high = map(math.log, _CONCENTRATION)
    prior = coordinates.prior
    drawn = []
    for concentration in np.exp(rng.uniform(low, high, n)):
        mean = prior * _preference(coordinates, rng.uniform())
        gammas = rng.gamma(concentration * len(prior) * mean / mean.sum()) + _TINY
        drawn.append(gammas / gammas.sum())
    shares = np.array(drawn).reshape(n, len(prior))
    return Points(coordinates.simplex.without_small(shares), scalars)


def _preference(coordinates: Coordinates, power: float) -> Array:
    if coordinates.affinity is None or coordinates.affinity.mean() <= 0:
        return np.ones(len(coordinates.prior))
    relative = coordinates.affinity / coordinates.affinity.mean()
    return np.asarray(np.maximum(relative, _LEAST_AFFINITY) ** power)


def recombined(
    points: Points, n: int, coordinates: Coordinates, rng: np.random.Generator
) -> Points:
    """n points whose shares, and whose scalars, are those of one of `points` or from anywhere.

    So good weights can meet good rates that were seen at other weights. Without shares, or without
    scalars, all n points are from anywhere.
    """
    drawn = anywhere(n, coordinates, rng)
    if coordinates.simplex is None or not coordinates.n_scalars:
        return drawn
    of, kept = rng.integers(len(points), size=(2, n)), rng.random((2, n, 1)) < _KEPT
    return Points(
        np.where(kept[0], points.shares[of[0]], drawn.shares),
        np.where(kept[1], points.scalars[of[1]], drawn.scalars),
    )


def near(
    centres: Points, n: int, spread: float, coordinates: Coordinates, rng: np.random.Generator
) -> Points:
    """n points around some of `centres`.

    Square roots of some shares, and all scalars, move by normal steps; their standard deviation is
    between a fifth of `spread` and twice `spread`.
    """
    of = rng.integers(len(centres), size=n)
    steps = spread * np.exp(rng.uniform(-1.6, 0.7, (n, 1)))
    scalars = centres.scalars[of] + steps * rng.standard_normal((n, coordinates.n_scalars))
    redrawn = (rng.random(scalars.shape) < _REDRAWN) & coordinates.nominal
    scalars = np.where(redrawn, rng.random(scalars.shape), scalars.clip(0, 1))
    if coordinates.simplex is None:
        return Points(np.zeros((n, 0)), scalars)
    roots = np.sqrt(centres.shares[of])
    groups = roots.shape[1]
    # From two of the shares to all of them.
    moved = rng.random(roots.shape) < np.maximum(2 / groups, rng.random((n, 1)))
    shares = (roots + steps * moved * rng.standard_normal(roots.shape)).clip(0) ** 2 + _TINY
    shares /= shares.sum(1, keepdims=True)
    return Points(coordinates.simplex.without_small(shares), scalars)
