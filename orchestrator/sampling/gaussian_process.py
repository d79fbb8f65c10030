"""A Gaussian process over the unit cube, built from the parts of Optuna's sampler.

Optuna's sampler itself is not used: copying the trials into a study and validating them took as
long as the model.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from optuna._gp import acqf, gp, optim_mixed, prior
from optuna._gp.search_space import SearchSpace
from optuna.distributions import FloatDistribution
from torch import Tensor

# `suggest_batch` chooses from at least this many candidate points, in this many rounds.
_CANDIDATES = 256
_ROUNDS = 2
# Standard deviation of candidates around the best observed point, then around the chosen points.
_SPREAD, _NARROW = 0.1, 0.06
# Number of functions drawn for the expected improvement (Optuna's number), and the number of
# choices after which they are redrawn: with more choices, hardly any function improves further.
_DRAWS, _BLOCK = 128, 64


@dataclass(frozen=True)
class Kernel:
    """The Matern kernel with smoothness 5/2: the covariance of the values at two points."""

    inverse_squares: Tensor  # 1 / length scale ** 2 for each of the d dimensions: (d,)
    scale: Tensor
    noise: Tensor

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Covariances (n, m) of points (n, d) and (m, d)."""
        roots = self.inverse_squares.sqrt()
        s = math.sqrt(5) * torch.cdist(a * roots, b * roots)
        return self.scale * (1 + s + s**2 / 3) * torch.exp(-s)


def fit(points: np.ndarray, values: np.ndarray) -> Kernel:
    """The most likely kernel for values (n,) at points (n, d), under Optuna's prior."""
    fitted = gp.fit_kernel_params(
        X=points,
        Y=_standard(values),
        is_categorical=np.zeros(points.shape[1], bool),
        log_prior=prior.default_log_prior,
        minimum_noise=prior.DEFAULT_MINIMUM_NOISE_VAR,
        deterministic_objective=False,
    )
    return Kernel(fitted.inverse_squared_lengthscales, fitted.kernel_scale, fitted.noise_var)


class GaussianProcess:
    """The posterior of a function, given observed values (n,) at points (n, d)."""

    def __init__(self, kernel: Kernel, points: np.ndarray, values: np.ndarray) -> None:
        self._kernel, self._points, self._values = kernel, points, _standard(values)
        self._x = torch.from_numpy(points)
        d = points.shape[1]
        self._cube = SearchSpace({str(i): FloatDistribution(0, 1) for i in range(d)})

    def suggest_batch(self, n: int, running: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
        """Points (n, d) that maximise the joint expected improvement with `running` (m, d).

        The points are chosen greedily from candidates. The improvement is estimated with functions
        drawn from the posterior at all candidates: Wilson et al., "Maximizing acquisition functions
        for Bayesian optimization", NeurIPS 2018. Many points cost hardly more than one. A second
        round draws new candidates around the chosen points.
        """
        m = max(_CANDIDATES, 2 * n)
        anywhere = self._cube.sample_normalized_params(m // 2, rng)
        near = self._best() + _SPREAD * rng.standard_normal((m - m // 2, anywhere.shape[1]))
        chosen = self._choose(np.concatenate([anywhere, near.clip(0, 1)]), n, running, rng)
        for _ in range(1, _ROUNDS):
            centres = np.concatenate([chosen, self._best()])
            of = centres[rng.randint(len(centres), size=m - n)]
            around = of + _NARROW * rng.standard_normal(of.shape)
            chosen = self._choose(np.concatenate([chosen, around.clip(0, 1)]), n, running, rng)
        return chosen

    def _choose(
        self, points: np.ndarray, n: int, running: np.ndarray, rng: np.random.RandomState
    ) -> np.ndarray:
        """The n points that improve most on the best observed value and on the running points."""
        mean, root = self._posterior(np.concatenate([running, points]))
        taken = list(range(len(running)))
        while len(taken) < len(running) + n:
            noise = torch.from_numpy(rng.standard_normal((_DRAWS, len(mean))))
            functions = mean + noise @ root.T
            best = torch.full((_DRAWS,), float(self._values.max()), dtype=torch.float64)
            if taken:
                best = torch.maximum(best, functions[:, taken].amax(1))
            likely = 1e-9 * functions.mean(0)  # decides when no point improves on anything
            for _ in range(min(_BLOCK, len(running) + n - len(taken))):
                gain = (functions - best[:, None]).clamp_(min=0).mean(0) + likely
                gain[taken] = -torch.inf
                taken.append(int(gain.argmax()))
                best = torch.maximum(best, functions[:, taken[-1]])
        return np.asarray(points[np.array(taken[len(running) :]) - len(running)])

    def _posterior(self, points: np.ndarray) -> tuple[Tensor, Tensor]:
        """Posterior mean (m,) at points (m, d), and a Cholesky factor (m, m) of the covariance."""
        x = torch.from_numpy(points)
        root, weights = self._factors
        white = torch.linalg.solve_triangular(root, self._kernel(self._x, x), upper=False)
        covariance = self._kernel(x, x) - white.T @ white
        covariance.diagonal().add_(1e-6)
        return weights @ white, torch.linalg.cholesky(covariance)

    @cached_property
    def _factors(self) -> tuple[Tensor, Tensor]:
        """Cholesky factor (n, n) of the observations' covariance, and whitened values (n,)."""
        covariance = self._kernel(self._x, self._x)
        covariance.diagonal().add_(self._kernel.noise)
        root = torch.linalg.cholesky(covariance)
        y = torch.from_numpy(self._values)[:, None]
        return root, torch.linalg.solve_triangular(root, y, upper=False)[:, 0]

    def suggest_sequentially(
        self, n: int, running: np.ndarray, rng: np.random.RandomState
    ) -> np.ndarray:
        """Points (n, d) that each maximise the expected improvement, chosen one after the other.

        Each point counts as running for the next, like those of `running` (m, d). The improvement
        is over the highest posterior mean at an observed point. No point can be expected to improve
        on the highest of many noisy values, and then only unexplored corners would be chosen.
        """
        model = gp.GPRegressor(
            torch.zeros(self._points.shape[1], dtype=torch.bool),
            self._x,
            torch.from_numpy(self._values),
            self._kernel.inverse_squares,
            self._kernel.scale,
            self._kernel.noise,
        )
        model._cache_matrix()
        mean, _ = model.posterior(self._x)
        best, top = float(mean.max()), self._points[[int(mean.argmax())]]
        before = len(running)
        for _ in range(n):
            point, _ = optim_mixed.optimize_acqf_mixed(
                self._improvement(model, best, running, rng),
                warmstart_normalized_params_array=top,
                rng=rng,
            )
            running = np.vstack([running, point])
        return running[before:]

    def _improvement(
        self, model: gp.GPRegressor, best: float, running: np.ndarray, rng: np.random.RandomState
    ) -> acqf.BaseAcquisitionFunc:
        if not len(running):
            return acqf.LogEI(model, self._cube, best)
        return acqf.qLogEI(model, self._cube, best, _DRAWS, rng.randint(1 << 30), running)

    def _best(self) -> np.ndarray:
        """The point (1, d) with the highest observed value."""
        return self._points[[self._values.argmax()]]


def _standard(values: np.ndarray) -> np.ndarray:
    return np.asarray((values - values.mean()) / max(1e-12, values.std()))


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread: for matrices of a few hundred trials, a second thread costs time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
