"""What to try next: a pure function of the trials so far."""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from typing import Any

import numpy as np
import optuna
import torch
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from orchestrator.space import SearchSpace, Values
from orchestrator.study import Studied, distributions

# Joint trials drawn at random before the Gaussian process is trusted.
_STARTUP = 10
# A score below this (functions have no lowest) is as bad as one can be.
_FLOOR = -1.0
# Trials that run or are to run, beyond which they are drawn and not optimised one by one: many at
# the cost of a few.
CROWD = 8
# Ended trials that the Gaussian process is fitted to, at most.
_MOST = 200
# The factor by which those leave the best rates found for the reference.
_NEAR = 3.0


def suggest(
    trials: Sequence[Studied], space: SearchSpace, rungs: Sequence[int], seed: int, n: int = 1
) -> list[Values]:
    """Parameters of the next `n` joint trials.

    At first at random: weights anywhere, rates near the best that the reference was seen with.
    Then by Optuna's Gaussian process, with the running trials in mind. The same trials and seed
    give the same suggestions.
    """
    if not has_model(trials, space):
        rng = np.random.default_rng([seed, len(trials)])
        return [_random(trials, space, rng) for _ in range(n)]
    box, seed = distributions(space.box()), (seed + len(trials)) % 2**31
    view = _view(trials, box, rungs)
    ended = [t for t in view if t.state == TrialState.COMPLETE]
    with _one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if len(view) - len(ended) + n > CROWD and ended:
            return _drawn_from_the_model(ended, box, seed, n)
        sampler = optuna.samplers.GPSampler(seed=seed, n_startup_trials=0)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.add_trials(view)
        # Each is running in the eyes of the next, and the model is fitted to the same trials.
        return [dict(study.ask(box).params) for _ in range(n)]


def _drawn_from_the_model(
    ended: Sequence[FrozenTrial], box: dict[str, BaseDistribution], seed: int, n: int
) -> list[Values]:
    """Thompson sampling: the best points of `n` functions that the Gaussian process holds possible.

    Kandasamy et al., "Parallelised Bayesian optimisation via Thompson sampling", AISTATS 2018. What
    is drawn keeps apart by chance, so that nothing has to be known of what is running: the cost
    hardly hangs on `n`, where that of expected improvement grows with all that runs.
    """
    sampler = _Drawing(seed, n)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.add_trials(ended)
    study.ask(box)
    return sampler.drawn


class _Drawing(optuna.samplers.GPSampler):
    """Optuna's Gaussian process, from which `n` points are drawn instead of one optimised."""

    def __init__(self, seed: int, n: int) -> None:
        super().__init__(seed=seed, n_startup_trials=0)
        self._n = n
        self.drawn: list[Values] = []

    def _optimize_acqf(self, acqf: Any, best_params: np.ndarray | None) -> np.ndarray:
        """Draw on candidates of which half are anywhere, and half near the best trial."""
        assert best_params is not None, "there are trials that have ended"
        rng, m = self._rng.rng, max(256, 2 * self._n)
        anywhere = acqf.search_space.sample_normalized_params(m, rng)
        near = best_params[0] + 0.1 * rng.standard_normal((m, best_params.shape[1]))
        points = np.concatenate([anywhere, near.clip(0, 1)])
        mean, covariance = acqf._gpr.posterior(torch.from_numpy(points), joint=True)
        covariance.diagonal().add_(1e-6)
        noise = torch.from_numpy(rng.standard_normal((2 * m, self._n)))
        values = mean + (torch.linalg.cholesky(covariance) @ noise).T
        chosen: list[int] = []
        for function in values:
            function[chosen] = -torch.inf
            chosen.append(int(function.argmax()))
        self.drawn = [dict(acqf.search_space.get_unnormalized_param(points[i])) for i in chosen]
        return np.asarray(points[chosen[0]])


def mean_of_best(trials: Sequence[Studied], space: SearchSpace, n: int) -> Values | None:
    """The mean of the best `n` complete joint trials; None before there are so many.

    Each of the best owes its place to luck too; what they have in common is less likely to be luck.
    """
    complete = [
        t for t in _joint(trials, space) if t.state == "complete" and not math.isnan(t.score)
    ]
    if len(complete) < n:
        return None
    best = sorted(complete, key=lambda t: (-t.score, t.number))[:n]
    return space.mean([t.params for t in best])


def has_model(trials: Sequence[Studied], space: SearchSpace) -> bool:
    """Whether there are enough joint trials, ended or not, for suggestions to be modelled."""
    return sum(1 for _ in islice(_joint(trials, space), _STARTUP)) == _STARTUP


def _joint(trials: Sequence[Studied], space: SearchSpace) -> Iterator[Studied]:
    """Those of all parameters, which are no reference."""
    names = space.box().keys()
    return (t for t in trials if t.params.keys() == names and not space.is_reference(t.params))


@contextmanager
def _one_thread() -> Iterator[None]:
    """The matrices of a few hundred trials are so small that a second thread costs time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _random(trials: Sequence[Studied], space: SearchSpace, rng: np.random.Generator) -> Values:
    drawn = {name: r.at(rng.random()) for name, r in space.box().items()}
    references = [t for t in trials if space.is_reference(t.params) and not math.isnan(t.score)]
    if references:
        best = max(references, key=lambda t: t.score)
        for name in space.rates():
            r = space.ranges[name]
            factor = _NEAR ** rng.uniform(-1, 1)
            drawn[name] = min(max(best.params[name] * factor, r.low), r.high)
    return drawn


def _view(
    trials: Sequence[Studied], box: dict[str, BaseDistribution], rungs: Sequence[int]
) -> list[FrozenTrial]:
    """The trials as the sampler is to see them.

    The record says PRUNED or FAIL, which the Gaussian process would not look at, and so suggest
    again. It is shown a stopped trial's score plus what the survivors of its rung gained, and for a
    diverged one the worst score of all. One outlier must not be all that it sees.
    """
    worst = min((t.score for t in trials if not math.isnan(t.score)), default=0.0)
    gains = {rung: gain(trials, rung, rungs[-1]) for rung in rungs}
    values: dict[int, float | None] = {}
    for trial in trials:
        value: float | None = None
        if trial.state == "complete":
            value = trial.score
        elif trial.state == "stopped":
            value = trial.score + gains[max(trial.reports)]
        elif trial.state == "failed":
            value = min(0.0, worst)
        values[trial.number] = None if value is None else max(value, _FLOOR)
    return [_frozen(trials[n], value, box) for n, value in _enough(values).items()]


def _enough(values: dict[int, float | None]) -> dict[int, float | None]:
    """What bounds the cost of a fit, which grows with the cube: the best and the latest trials."""
    ended = [(n, value) for n, value in values.items() if value is not None]
    best = sorted(ended, key=lambda pair: -pair[1])[: _MOST // 2]
    seen = {n for n, _ in [*best, *ended[-(_MOST // 2) :]]}
    return {n: value for n, value in values.items() if value is None or n in seen}


def _frozen(trial: Studied, value: float | None, box: dict[str, BaseDistribution]) -> FrozenTrial:
    frozen = create_trial(
        params=trial.params,
        distributions=box,
        state=TrialState.RUNNING if value is None else TrialState.COMPLETE,
        value=value,
    )
    frozen.datetime_start = datetime.fromtimestamp(trial.number)
    return frozen


def gain(trials: Sequence[Studied], rung: int, last: int) -> float:
    """Mean gain between a rung and the last of those that reached both; 0 if none has."""
    gains = [t.reports[last] - t.reports[rung] for t in trials if {rung, last} <= t.reports.keys()]
    gains = [g for g in gains if not math.isnan(g)]
    return sum(gains) / len(gains) if gains else 0.0
