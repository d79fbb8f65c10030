"""A Gaussian process over the unit cube, made of the parts of Optuna's sampler.

Not by way of a study of Optuna's: to copy and check the trials into one took as long as the model.
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

# Points among which some are chosen together, at least, and how often that is done.
_CANDIDATES = 256
_ROUNDS = 2
# How far candidates are around the best point seen, and then around those that were chosen.
_SPREAD, _NARROW = 0.1, 0.06
# Functions drawn for the expected improvement (Optuna's own number), and for how many choices: one
# more hardly improves on the best of many for any of them.
_DRAWS, _BLOCK = 128, 64


@dataclass(frozen=True)
class Kernel:
    """Matern's with smoothness 5/2: what values at two points have to do with each other."""

    inverse_squares: Tensor  # of the length scale in each of the d dimensions: (d,)
    scale: Tensor
    noise: Tensor

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Covariances (n, m) of points (n, d) and (m, d)."""
        roots = self.inverse_squares.sqrt()
        s = math.sqrt(5) * torch.cdist(a * roots, b * roots)
        return self.scale * (1 + s + s**2 / 3) * torch.exp(-s)


def fit(points: np.ndarray, values: np.ndarray) -> Kernel:
    """The likeliest kernel of values (n,) at points (n, d), under Optuna's prior."""
    found = gp.fit_kernel_params(
        X=points,
        Y=_standard(values),
        is_categorical=np.zeros(points.shape[1], bool),
        log_prior=prior.default_log_prior,
        minimum_noise=prior.DEFAULT_MINIMUM_NOISE_VAR,
        deterministic_objective=False,
    )
    return Kernel(found.inverse_squared_lengthscales, found.kernel_scale, found.noise_var)


class Process:
    """What is believed of a function of which values (n,) at points (n, d) were seen."""

    def __init__(self, kernel: Kernel, points: np.ndarray, values: np.ndarray) -> None:
        self._kernel, self._points, self._values = kernel, points, _standard(values)
        self._x = torch.from_numpy(points)
        d = points.shape[1]
        self._cube = SearchSpace({str(i): FloatDistribution(0, 1) for i in range(d)})

    def together(self, n: int, running: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
        """Points (n, d) of the most expected improvement together with those of `running` (m, d).

        Chosen greedily from candidates, by functions that may be the one, drawn at all of them:
        Wilson et al., "Maximizing acquisition functions for Bayesian optimization", NeurIPS 2018.
        Many cost hardly more than one. They are then the middle of new candidates.
        """
        m = max(_CANDIDATES, 2 * n)
        anywhere = self._cube.sample_normalized_params(m // 2, rng)
        near = self._best() + _SPREAD * rng.standard_normal((m - m // 2, anywhere.shape[1]))
        found = self._chosen(np.concatenate([anywhere, near.clip(0, 1)]), n, running, rng)
        for _ in range(1, _ROUNDS):
            middles = np.concatenate([found, self._best()])
            of = middles[rng.randint(len(middles), size=m - n)]
            around = of + _NARROW * rng.standard_normal(of.shape)
            found = self._chosen(np.concatenate([found, around.clip(0, 1)]), n, running, rng)
        return found

    def _chosen(
        self, points: np.ndarray, n: int, running: np.ndarray, rng: np.random.RandomState
    ) -> np.ndarray:
        """Those n of the points that improve most on the best seen and on what is running."""
        mean, root = self._believed(np.concatenate([running, points]))
        taken = list(range(len(running)))
        while len(taken) < len(running) + n:
            noise = torch.from_numpy(rng.standard_normal((_DRAWS, len(mean))))
            functions = mean + noise @ root.T
            best = torch.full((_DRAWS,), float(self._values.max()), dtype=torch.float64)
            if taken:
                best = torch.maximum(best, functions[:, taken].amax(1))
            likely = 1e-9 * functions.mean(0)  # when none improves on anything
            for _ in range(min(_BLOCK, len(running) + n - len(taken))):
                gain = (functions - best[:, None]).clamp_(min=0).mean(0) + likely
                gain[taken] = -torch.inf
                taken.append(int(gain.argmax()))
                best = torch.maximum(best, functions[:, taken[-1]])
        return np.asarray(points[np.array(taken[len(running) :]) - len(running)])

    def _believed(self, points: np.ndarray) -> tuple[Tensor, Tensor]:
        """Mean (m,) of the values at points (m, d), and a root (m, m) of their covariance."""
        x = torch.from_numpy(points)
        root, weights = self._known
        white = torch.linalg.solve_triangular(root, self._kernel(self._x, x), upper=False)
        covariance = self._kernel(x, x) - white.T @ white
        covariance.diagonal().add_(1e-6)
        return weights @ white, torch.linalg.cholesky(covariance)

    @cached_property
    def _known(self) -> tuple[Tensor, Tensor]:
        """The root (n, n) of the covariance of what was seen, and that whitened by it (n,)."""
        covariance = self._kernel(self._x, self._x)
        covariance.diagonal().add_(self._kernel.noise)
        root = torch.linalg.cholesky(covariance)
        y = torch.from_numpy(self._values)[:, None]
        return root, torch.linalg.solve_triangular(root, y, upper=False)[:, 0]

    def one_by_one(self, n: int, running: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
        """Points (n, d) of the most expected improvement one after the other, each of which runs
        in the eyes of the next, as those of `running` (m, d) do.

        On the value that is believed of a point seen: nothing can be expected to improve on the
        highest of many noisy ones, and what is left then are corners where nobody has looked.
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
        believed, _ = model.posterior(self._x)
        best, top = float(believed.max()), self._points[[int(believed.argmax())]]
        before = len(running)
        for _ in range(n):
            found, _ = optim_mixed.optimize_acqf_mixed(
                self._improvement(model, best, running, rng),
                warmstart_normalized_params_array=top,
                rng=rng,
            )
            running = np.vstack([running, found])
        return running[before:]

    def _improvement(
        self, model: gp.GPRegressor, best: float, running: np.ndarray, rng: np.random.RandomState
    ) -> acqf.BaseAcquisitionFunc:
        if not len(running):
            return acqf.LogEI(model, self._cube, best)
        return acqf.qLogEI(model, self._cube, best, _DRAWS, rng.randint(1 << 30), running)

    def _best(self) -> np.ndarray:
        """The point (1, d) of the highest value seen."""
        return self._points[[self._values.argmax()]]


def _standard(values: np.ndarray) -> np.ndarray:
    return np.asarray((values - values.mean()) / max(1e-12, values.std()))


@contextmanager
def one_thread() -> Iterator[None]:
    """The matrices of a few hundred trials are so small that a second thread costs time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
