"""A Gaussian process of scores over task weights and scalars, built with BoTorch."""

import math
import operator
from collections.abc import Callable, Sequence
from functools import reduce
from typing import NamedTuple

import numpy as np
import torch
from botorch.acquisition import qLogExpectedImprovement
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from botorch.sampling import SobolQMCNormalSampler
from gpytorch.constraints import GreaterThan
from gpytorch.kernels import ConstantKernel, Kernel, MaternKernel, PolynomialKernel, ScaleKernel
from gpytorch.likelihoods import GaussianLikelihood
from gpytorch.means import ConstantMean
from gpytorch.mlls import ExactMarginalLogLikelihood
from gpytorch.priors import LogNormalPrior
from torch import Tensor

from orchestrator.sampling.process.candidates import near, recombined
from orchestrator.sampling.process.points import Coordinates, Points
from orchestrator.sampling.process.threads import quietly_on_one_thread

# Prior medians of the length scales: of square roots of shares, of scalars, of the affinity.
_SHARES, _SCALARS, _AFFINITY, _LENGTH_SPREAD = 0.7, 0.6, 1.5, 0.8
# Prior medians of the variances of the function and of the noise; the values have variance 1.
_VARIANCE, _NOISE, _VARIANCE_SPREAD = 0.6, 0.02, 1.0
# Prior median of the variance that the weights alone, or the scalars alone, explain; the variance
# that only both together explain is 1, and so is that of a linear function of the weights. All of
# it is multiplied by the variance of the function.
_ALONE, _LINEAR = 4.0, 1.0
_TINY = 1e-4
_LEAST_NOISE = 1e-6
_FIT_STEPS = 50
# The maximum of the acquisition function is sought among this many candidates. Each of the further
# rounds has the best candidates of the round before and half as many new ones, closer to them.
_CANDIDATES, _ROUNDS, _CENTRES = 512, 5, 6
_SPREAD = 0.25
# Number of functions drawn for the expected improvement, and the number of choices after which
# they are redrawn: with more choices, hardly any function improves further.
_DRAWS, _BLOCK = 128, 64
_RENEWED = 16  # gains that are computed together
_GAIN_DRAWS = 1024  # number of functions drawn for `expected_gain`


class GaussianProcess:
    """The posterior of the score, given values (n,) at n points.

    The covariance is s (a + l + w) (b + r), with l and w of the weights and r of the scalars: the
    score has a part that depends on the weights, one that depends on the scalars, and one that
    depends on both. So weights that were good at bad rates are expected to be good at others. l is
    that of a linear function of the square roots of the shares: it expects more of a task whose
    larger shares were better, also beyond the shares seen. w and r are Matern kernels with
    smoothness 5/2; r has a length scale for each feature; w is one of the shares, with one length
    scale, times one of the affinity. Without scalars only s (a + l + w) is left, without weights
    s r.

    fitted: a process whose mean, covariance and noise are used; by default they are fitted.
    """

    @quietly_on_one_thread()
    def __init__(
        self,
        coordinates: Coordinates,
        points: Points,
        values: np.ndarray,
        fitted: "GaussianProcess | None" = None,
    ) -> None:
        self._coordinates, self._points = coordinates, points
        self._scale = max(1e-12, float(values.std()))
        x, y = self._features(points), torch.from_numpy(_standard(values))[:, None]
        self._parts: _Parts = _initial_parts(coordinates) if fitted is None else fitted._parts
        self._model = SingleTaskGP(
            x,
            y,
            likelihood=self._parts.likelihood,
            covar_module=self._parts.covariance,
            mean_module=self._parts.mean,
            outcome_transform=None,
        )
        if fitted is None:
            fit_gpytorch_mll(
                ExactMarginalLogLikelihood(self._parts.likelihood, self._model),
                optimizer_kwargs={"options": {"maxiter": _FIT_STEPS}},
            )
        self._model.eval()
        with torch.no_grad():
            # Improvements are over the highest mean, because the highest noisy value is too high.
            self._means = self._model.posterior(x).mean[:, 0]

    def _features(self, points: Points) -> Tensor:
        return torch.from_numpy(self._coordinates.features(points))

    @quietly_on_one_thread()
    def suggest(self, n: int, running: Points, rng: np.random.Generator) -> Points:
        """n points, each of which maximises the expected improvement given those before it.

        The improvement is over the highest posterior mean at an observed point. The points of
        `running` and the points chosen so far are pending.
        """
        before = len(running)
        for _ in range(n):
            running += self._maximum(running, rng)
        return running.take(np.arange(before, len(running)))

    @quietly_on_one_thread()
    @torch.no_grad()
    def expected_best(self, rng: np.random.Generator) -> Points:
        """The point with the highest posterior mean."""
        return self._argmax(lambda x: self._model.posterior(x).mean[:, 0], rng)

    @torch.no_grad()
    def _maximum(self, running: Points, rng: np.random.Generator) -> Points:
        """The point with the highest expected improvement."""
        seed = int(rng.integers(1 << 30))
        acquisition = qLogExpectedImprovement(
            self._model,
            best_f=float(self._means.max()),
            sampler=SobolQMCNormalSampler(torch.Size([_DRAWS]), seed=seed),
            X_pending=self._features(running) if len(running) else None,
        )
        return self._argmax(lambda x: acquisition(x[:, None]), rng)

    def _argmax(self, of: Callable[[Tensor], Tensor], rng: np.random.Generator) -> Points:
        """The candidate, one point, with the highest value; of: values (n,) of features (n, f)."""
        half = _CANDIDATES // 2
        top = self._best(3)
        place = self._coordinates
        wide = recombined(self._points, half, place, rng)
        candidates = wide + top + near(top, half, _SPREAD, place, rng)
        for round_ in range(_ROUNDS):
            found = of(self._features(candidates))
            top = candidates.take(found.topk(min(_CENTRES, len(found))).indices.numpy())
            spread = _SPREAD / 2 ** (round_ + 1)
            candidates = top + near(top, half, spread, place, rng)
        return top.take([0])

    @quietly_on_one_thread()
    @torch.no_grad()
    def suggest_batch(self, n: int, running: Points, rng: np.random.Generator) -> Points:
        """n points that together maximise the expected improvement with those of `running`.

        The points are chosen greedily from candidates. The improvement is estimated with functions
        drawn from the posterior at all candidates: Wilson et al., "Maximizing acquisition functions
        for Bayesian optimization", NeurIPS 2018. Many points cost hardly more than one. A second
        round draws new candidates around the chosen points.
        """
        m = max(_CANDIDATES, 2 * n)
        half, place = m // 2, self._coordinates
        wide = recombined(self._points, half, place, rng)
        wide += near(self._best(3), half, _SPREAD, place, rng)
        first = self._choose(wide, n, running, rng)
        centres = first + self._best(1)
        around = near(centres, max(m - n, n), _SPREAD / 4, place, rng)
        return self._choose(first + around, n, running, rng)

    @quietly_on_one_thread()
    @torch.no_grad()
    def expected_gain(
        self, n: int, running: Points, rng: np.random.Generator
    ) -> tuple[float, float]:
        """The gain that n more points promise, and the standard error of the best observed score.

        The gain is the expected improvement, over the highest posterior mean at an observed point
        and over the points of `running`, of n points that are chosen together. Both are in the unit
        of the values.
        """
        chosen = self._coordinates.params(self.suggest_batch(n, running, rng))
        points = running + self._coordinates.points(chosen)  # as the trials would have them
        posterior = self._model.posterior(self._features(points))
        root = torch.linalg.cholesky(_with_jitter(posterior.distribution.covariance_matrix))
        noise = torch.from_numpy(rng.standard_normal((_GAIN_DRAWS, len(points))))
        functions = posterior.mean[:, 0] + noise @ root.T
        before = functions[:, : len(running)].clamp(min=float(self._means.max()))
        best = before.amax(1) if len(running) else self._means.max()
        gain = (functions[:, len(running) :].amax(1) - best).clamp(min=0).mean()
        at_best = self._model.posterior(self._features(self._best(1)))
        return self._scale * float(gain), self._scale * math.sqrt(float(at_best.variance))

    def _choose(self, points: Points, n: int, running: Points, rng: np.random.Generator) -> Points:
        """The n points that improve most on the best observed value and on the running points."""
        m = len(running)
        posterior = self._model.posterior(self._features(running + points))
        covariance = _with_jitter(posterior.distribution.covariance_matrix)
        mean, root = posterior.mean[:, 0], torch.linalg.cholesky(covariance)
        taken: list[int] = []
        while len(taken) < n:
            noise = torch.from_numpy(rng.standard_normal((_DRAWS, len(mean))))
            functions = np.ascontiguousarray((mean + noise @ root.T).numpy().T)
            pending = functions[[*range(m), *(m + i for i in taken)]]
            best = pending.max(0, initial=float(self._means.max()))
            taken += _greedy(functions[m:], best, taken, min(_BLOCK, n - len(taken)))
        return points.take(np.array(taken))

    def _best(self, n: int) -> Points:
        """The observed points with the highest posterior means, at most n."""
        return self._points.take(self._means.topk(min(n, len(self._means))).indices.numpy())


def _greedy(functions: np.ndarray, best: np.ndarray, taken: Sequence[int], n: int) -> list[int]:
    """n rows of functions (k, draws) that are not in `taken`.

    Each row has the highest mean gain over `best` (draws,) and over the rows before it. A gain
    never grows with further rows, so an old gain is a bound, and only the rows with the highest
    bounds are computed again: Minoux, "Accelerated greedy algorithms for maximizing submodular set
    functions", 1978.
    """
    likely = 1e-9 * functions.mean(1)  # breaks the tie if no row improves

    def gains(rows: np.ndarray) -> np.ndarray:
        return np.asarray((functions[rows] - best).clip(0).mean(1) + likely[rows])

    every = np.arange(len(functions))
    bounds = gains(every)
    bounds[list(taken)] = -np.inf
    found: list[int] = []
    for _ in range(n):
        renewed = every[:0]
        while (top := int(bounds.argmax())) not in renewed:
            renewed = np.argpartition(bounds, -_RENEWED)[-_RENEWED:]
            free = renewed[np.isfinite(bounds[renewed])]
            bounds[free] = gains(free)
        found.append(top)
        bounds[top] = -np.inf
        best = np.maximum(best, functions[top])
    return found


class _Parts(NamedTuple):
    """The mean, the covariance and the noise of a Gaussian process."""

    mean: ConstantMean
    covariance: Kernel
    likelihood: GaussianLikelihood


def _initial_parts(coordinates: Coordinates) -> _Parts:
    """The parts before they are fitted: hyperparameters are the medians of their priors."""
    noise = LogNormalPrior(math.log(_NOISE), _VARIANCE_SPREAD)
    likelihood = GaussianLikelihood(
        noise_prior=noise, noise_constraint=GreaterThan(_LEAST_NOISE, initial_value=_NOISE)
    )
    return _Parts(ConstantMean(), _covariance(coordinates), likelihood)


def _covariance(coordinates: Coordinates) -> Kernel:
    groups, scalars, affinity = coordinates.widths
    parts: list[Kernel] = []
    if groups:
        weights = _matern(0, groups, _SHARES)
        if affinity:
            weights = weights * _matern(groups + scalars, affinity, _AFFINITY)
        parts.append(_alone() + _linear(groups) + weights)
    if scalars:
        rates = _matern(groups, scalars, _SCALARS, lengths=scalars)
        parts.append(_alone() + rates if groups else rates)
    whole = reduce(operator.mul, parts)
    scaled = ScaleKernel(whole, LogNormalPrior(math.log(_VARIANCE), _VARIANCE_SPREAD))
    scaled.outputscale = _VARIANCE
    return scaled


def _linear(width: int) -> Kernel:
    """The kernel of a linear function of the first `width` features, without a constant.

    It is a polynomial kernel of power 1, whose offset must be above 0. With GPyTorch's LinearKernel
    a fit takes twice as long.
    """
    linear = PolynomialKernel(power=1, active_dims=tuple(range(width)))
    linear.offset = torch.tensor([_TINY])
    linear.raw_offset.requires_grad_(False)  # not fitted: `_alone` is the constant
    scaled = ScaleKernel(linear, LogNormalPrior(math.log(_LINEAR), _VARIANCE_SPREAD))
    scaled.outputscale = _LINEAR
    return scaled


def _matern(start: int, width: int, median: float, lengths: int = 1) -> Kernel:
    """A kernel of `width` features from `start` on; median: that of the length scales' prior."""
    kernel = MaternKernel(
        2.5,
        ard_num_dims=lengths if lengths > 1 else None,
        active_dims=tuple(range(start, start + width)),
        lengthscale_prior=LogNormalPrior(math.log(median), _LENGTH_SPREAD),
    )
    kernel.lengthscale = median
    return kernel


def _alone() -> Kernel:
    kernel = ConstantKernel(constant_prior=LogNormalPrior(math.log(_ALONE), _VARIANCE_SPREAD))
    kernel.constant = torch.tensor([_ALONE])
    return kernel


def _with_jitter(covariance: Tensor) -> Tensor:
    """The covariance (n, n), changed in place so that it has a Cholesky factor."""
    covariance.diagonal().add_(1e-6)
    return covariance


def _standard(values: np.ndarray) -> np.ndarray:
    return np.asarray((values - values.mean()) / max(1e-12, values.std()))
