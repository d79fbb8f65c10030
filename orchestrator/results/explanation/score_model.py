"""A model of the scores of trials at all rungs, from which effects of task weights are read.

The sampler's Gaussian process is built to find good points: its hyperparameters are point estimates
and it sees one value per trial. Intervals that are read from it are too narrow (docs/why.md). This
model has three differences.

- It is fitted to every report. Trial k has the score a_r + b_r g_k + noise at rung r; at the last
  rung a = 0 and b = 1. Which trials are pruned depends only on reports that the model sees, so
  pruning does not bias it.
- g_k is f(k) plus an effect of the trial's seed. f is a Gaussian process with three parts: one for
  the scalars, a sum of one curve for each task, and one for everything else.
- Hyperparameters are integrated out by a Laplace approximation of their posterior.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from orchestrator.sampling.process.threads import quietly_on_one_thread

Array = np.ndarray

# Medians of the priors and standard deviations of their logarithms. The scores at the last rung
# have variance 1. `rates`, `tasks` and `rest` are the variances of the three parts of f.
_PRIORS = {
    "rates": (0.5, 1.0),
    "tasks": (0.05, 1.5),
    "rest": (0.1, 1.5),
    "tasks_length": (0.5, 0.7),
    "rest_length": (0.7, 0.7),
    "noise": (0.1, 1.0),
    "seed": (0.1, 1.0),
}
_LENGTH = 0.6, 0.8  # the length scale of each scalar
_SHIFT, _SLOPE = 1.0, 0.5  # standard deviations of a_r and of log b_r; their medians are 0
# Draws of the parameters; steps of a fit, and of one that starts at the fit of similar scores.
_DRAWS, _FIT_STEPS, _FEW_STEPS = 16, 50, 8
_STEP = 0.02  # of finite differences, in standard deviations of the priors
_JITTER = 1e-6


class Estimates(NamedTuple):
    """Means and standard errors of k differences of the score, each (k,)."""

    mean: Array
    error: Array


class ScoreModel:
    """The posterior of f, the score at the last rung without noise.

    roots: (n, g), square roots of the shares of g tasks. scalars: (n, s), features of the other
    parameters. scores: (n, r), the score at each of r rungs, NaN where there is no report; each
    trial has one at least, and not all scores are equal. similar: a model of similar scores of
    the same number of parameters; the fit then starts there and takes a tenth of the time.
    """

    @quietly_on_one_thread()
    def __init__(
        self, roots: Array, scalars: Array, scores: Array, similar: "ScoreModel | None" = None
    ) -> None:
        self._roots, self._scalars = _points(roots, scalars)
        known = ~np.isnan(scores)
        last = scores[:, -1][known[:, -1]]
        every = scores[known]
        centre = last.mean() if len(last) > 1 else every.mean()
        # By rounding, the deviation of equal scores may be above 0.
        unit = last.std() if len(last) > 1 and np.ptp(last) > 0 else every.std()
        self._centre, self._unit = float(centre), float(unit)
        self._known = torch.from_numpy(known)
        self._scores = torch.from_numpy(np.where(known, (scores - centre) / self._unit, 0.0))
        self._names = [*_PRIORS, *[f"length {i}" for i in range(scalars.shape[1])]]
        if similar is None:
            self._at = self._mode(self._prior()[0], _FIT_STEPS)
            self._deviations = self._scale()
        else:
            self._at = self._mode(similar._at, _FEW_STEPS)
            self._deviations = similar._deviations
        self._draws = [self._solved(theta) for theta in self._samples()]

    @property
    def _n_rungs(self) -> int:
        return self._scores.shape[1]

    def _prior(self) -> tuple[Tensor, Tensor]:
        """Means and standard deviations of all parameters: logarithms, then a_r and log b_r."""
        pairs = [*_PRIORS.values(), *[_LENGTH] * self._scalars.shape[1]]
        early = self._n_rungs - 1
        mean = [math.log(median) for median, _ in pairs] + [0.0] * 2 * early
        spread = [s for _, s in pairs] + [_SHIFT] * early + [_SLOPE] * early
        return torch.tensor(mean).double(), torch.tensor(spread).double()

    def _named(self, theta: Tensor) -> dict[str, Tensor]:
        n = len(self._names)
        early = self._n_rungs - 1
        values = dict(zip(self._names, theta[:n].exp(), strict=True))
        values["lengths"] = theta[len(_PRIORS) : n].exp()
        values["a"] = torch.cat([theta[n : n + early], theta.new_zeros(1)])
        values["b"] = torch.cat([theta[n + early :], theta.new_zeros(1)]).exp()
        return values

    def _kernel(
        self, p: dict[str, Tensor], one: tuple[Tensor, Tensor], two: tuple[Tensor, Tensor]
    ) -> Tensor:
        """The covariance of f at points (n,) and (m,), each given as (roots, scalars): (n, m)."""
        (r1, x1), (r2, x2) = one, two
        near = _matern(_distance(x1 / p["lengths"], x2 / p["lengths"]))
        curves = _matern((r1[:, None] - r2[None]).abs() / p["tasks_length"]).sum(-1)
        rest = _matern(_distance(r1, r2) / p["rest_length"]) * near
        # 1: the variance of the mean score.
        return 1 + p["rates"] * near + p["tasks"] * curves + p["rest"] * rest

    def _merged(self, p: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """All reports of each trial as one value of g with its variance; the log of what is left.

        The product over rungs of N(y_r; a_r + b_r g, noise^2) is a normal density of g times a
        factor that does not depend on g.
        """
        noise, b = p["noise"], p["b"]
        above = (self._scores - p["a"]) * self._known
        precision = (b**2 * self._known).sum(1) / noise**2
        value = (above * b).sum(1) / noise**2 / precision
        left = ((above - b * value[:, None]) ** 2 * self._known).sum() / noise**2
        n = self._known.sum()
        return value, 1 / precision, -0.5 * left - n * noise.log() - 0.5 * precision.log().sum()

    def _root(self, p: dict[str, Tensor], variance: Tensor) -> Tensor:
        """The Cholesky factor of the covariance of the merged values."""
        own = (self._roots, self._scalars)
        diagonal = variance + p["seed"] ** 2 + _JITTER
        root: Tensor = torch.linalg.cholesky(self._kernel(p, own, own) + torch.diag(diagonal))
        return root

    def _log_posterior(self, theta: Tensor) -> Tensor:
        p = self._named(theta)
        value, variance, left = self._merged(p)
        root = self._root(p, variance)
        solved = torch.linalg.solve_triangular(root, value[:, None], upper=False)
        mean, spread = self._prior()
        fit = -0.5 * (solved**2).sum() - root.diagonal().log().sum() + left
        found: Tensor = fit - 0.5 * (((theta - mean) / spread) ** 2).sum()
        return found

    def _gradient(self, theta: Tensor) -> Tensor:
        theta = theta.clone().requires_grad_()
        return torch.autograd.grad(self._log_posterior(theta), theta)[0]

    def _mode(self, start: Tensor, steps: int) -> Tensor:
        from scipy.optimize import minimize  # importing it takes half a second, torch.optim two

        def loss(x: Array) -> tuple[float, Array]:
            theta = torch.from_numpy(x).requires_grad_()
            value = -self._log_posterior(theta)
            value.backward()
            assert theta.grad is not None
            return value.item(), theta.grad.numpy()

        # The bounds keep matrices positive definite; no posterior is near them.
        mean, spread = self._prior()
        bounds = np.stack([mean - 5 * spread, mean + 5 * spread], 1)
        options = {"maxiter": steps}
        found = minimize(
            loss, start.numpy(), jac=True, method="L-BFGS-B", bounds=bounds, options=options
        )
        return torch.from_numpy(found.x)

    def _scale(self) -> Tensor:
        """The matrix that maps normal numbers to deviations of the parameters from the mode."""
        _, spread = self._prior()
        steps = torch.diag(_STEP * spread)
        rows = [self._gradient(self._at - s) - self._gradient(self._at + s) for s in steps]
        curvature = torch.stack(rows) / (2 * _STEP) * spread
        values, vectors = torch.linalg.eigh((curvature + curvature.T) / 2)
        # The posterior is not wider than the prior, whose curvature is 1 in these units.
        scale: Tensor = spread[:, None] * vectors / values.clamp(min=1.0).sqrt()
        return scale

    def _samples(self) -> Tensor:
        """Draws (d, p) from a normal approximation of the posterior of the parameters."""
        sobol = torch.quasirandom.SobolEngine(len(self._at), scramble=True, seed=0)
        normal = torch.special.ndtri(sobol.draw(_DRAWS).double().clamp(1e-4, 1 - 1e-4))
        draws: Tensor = self._at + normal @ self._deviations.T
        return draws

    def _solved(self, theta: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        p = self._named(theta)
        value, variance, _ = self._merged(p)
        root = self._root(p, variance)
        return p, root, torch.cholesky_solve(value[:, None], root)[:, 0]

    @quietly_on_one_thread()
    def means(self, roots: Array, scalars: Array) -> Array:
        """The expected score at m points, (m,); much cheaper than with errors."""
        at, own = _points(roots, scalars), (self._roots, self._scalars)
        found = [self._kernel(p, at, own) @ solution for p, _, solution in self._draws]
        return np.asarray(self._unit * torch.stack(found).mean(0).numpy() + self._centre)

    @quietly_on_one_thread()
    def estimates(self, roots: Array, scalars: Array, coefficients: Array) -> Estimates:
        """Differences of f: linear functions of f at m points, with coefficients (k, m).

        The coefficients of each function sum to 0.
        """
        at = _points(roots, scalars)
        c, own = torch.from_numpy(coefficients), (self._roots, self._scalars)
        means, variances = [], []
        for p, root, solution in self._draws:
            cross = self._kernel(p, own, at) @ c.T
            explained = torch.linalg.solve_triangular(root, cross, upper=False)
            prior = ((c @ self._kernel(p, at, at)) * c).sum(1)
            means.append(cross.T @ solution)
            variances.append((prior - (explained**2).sum(0)).clamp(min=0))
        mean = torch.stack(means)
        variance = torch.stack(variances).mean(0) + mean.var(0)
        scaled = self._unit * mean.mean(0), self._unit * variance.sqrt()
        return Estimates(scaled[0].numpy(), scaled[1].numpy())


def _points(roots: Array, scalars: Array) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(roots), torch.from_numpy(scalars)


def _distance(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distances (n, m); their gradient is finite at zero."""
    squared = ((x[:, None] - y[None]) ** 2).sum(-1)
    return (squared + 1e-12).sqrt()


def _matern(distance: Tensor) -> Tensor:
    """The Matern covariance with smoothness 5/2."""
    scaled = math.sqrt(5.0) * distance
    return (1 + scaled + scaled**2 / 3) * (-scaled).exp()
