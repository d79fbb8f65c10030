"""What to try next: a pure function of the trials so far."""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime

import numpy as np
import optuna
import torch
from optuna.trial import FrozenTrial, TrialState, create_trial

from orchestrator.space import Range, SearchSpace, Values
from orchestrator.study import Studied, distributions

# Joint trials drawn at random before the Gaussian process is trusted.
_STARTUP = 10
# A score below this (functions have no lowest) is as bad as one can be.
_FLOOR = -1.0
# The factor by which those leave the best rates found for the reference.
_NEAR = 3.0


def suggest(
    trials: Sequence[Studied], space: SearchSpace, rungs: Sequence[int], seed: int
) -> Values:
    """Parameters of the next joint trial.

    At first at random: weights anywhere, rates near the best that the reference was seen with.
    Then by Optuna's Gaussian process, with the running trials in mind. The same trials and seed
    give the same suggestion.
    """
    box = space.box()
    joint = [
        t for t in trials if t.params.keys() == box.keys() and not space.is_reference(t.params)
    ]
    if len(joint) < _STARTUP:
        return _random(trials, space, np.random.default_rng([seed, len(trials)]))
    sampler = optuna.samplers.GPSampler(seed=(seed + len(trials)) % 2**31, n_startup_trials=0)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.add_trials(_view(trials, box, rungs))
    with _one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dict(study.ask(distributions(box)).params)


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
    trials: Sequence[Studied], box: Mapping[str, Range], rungs: Sequence[int]
) -> list[FrozenTrial]:
    """The trials as the sampler is to see them.

    The record says PRUNED or FAIL, which the Gaussian process would not look at, and so suggest
    again. It is shown a stopped trial's score plus what the survivors of its rung gained, and for a
    diverged one the worst score of all. One outlier must not be all that it sees.
    """
    worst = min((t.score for t in trials if not math.isnan(t.score)), default=0.0)
    view = []
    for trial in trials:
        value: float | None = None
        if trial.state == "complete":
            value = trial.score
        elif trial.state == "stopped":
            value = trial.score + gain(trials, max(trial.reports), rungs[-1])
        elif trial.state == "failed":
            value = min(0.0, worst)
        running = value is None
        frozen = create_trial(
            params=trial.params,
            distributions=distributions(box),
            state=TrialState.RUNNING if running else TrialState.COMPLETE,
            value=None if value is None else max(value, _FLOOR),
        )
        frozen.datetime_start = datetime.fromtimestamp(trial.number)
        view.append(frozen)
    return view


def gain(trials: Sequence[Studied], rung: int, last: int) -> float:
    """Mean gain between a rung and the last of those that reached both; 0 if none has."""
    gains = [t.reports[last] - t.reports[rung] for t in trials if {rung, last} <= t.reports.keys()]
    gains = [g for g in gains if not math.isnan(g)]
    return sum(gains) / len(gains) if gains else 0.0
