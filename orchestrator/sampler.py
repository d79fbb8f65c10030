"""What to try next: a pure function of the trials so far."""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import islice

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
    box = distributions(space.box())
    sampler = optuna.samplers.GPSampler(seed=(seed + len(trials)) % 2**31, n_startup_trials=0)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.add_trials(_view(trials, box, rungs))
    with _one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Each is running in the eyes of the next, and the model is fitted to the same trials.
        return [dict(study.ask(box).params) for _ in range(n)]


def has_model(trials: Sequence[Studied], space: SearchSpace) -> bool:
    """Whether there are enough joint trials, ended or not, for suggestions to be modelled."""
    names = space.box().keys()
    joint = (t for t in trials if t.params.keys() == names and not space.is_reference(t.params))
    return sum(1 for _ in islice(joint, _STARTUP)) == _STARTUP


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
