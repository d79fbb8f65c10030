"""What to try next: a pure function of the trials so far."""

import heapq
import math
import warnings
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from orchestrator.record.study import StudiedTrial
from orchestrator.sampling.gaussian_process import Kernel, Process, fit, one_thread
from orchestrator.sampling.ranked_trials import RankedTrials
from orchestrator.space.search_space import SearchSpace, Values

# Joint trials drawn at random before the Gaussian process is trusted.
_STARTUP = 10
# A score below this (functions have no lowest) is as bad as one can be.
_FLOOR = -1.0
# Trials that run or are to run, from which on they are chosen together and not one by one with the
# utmost care: a hundred for the time of one.
CROWD = 8
# Ended trials that the Gaussian process is shown, at most.
_MOST = 200
# Ended trials from which on its kernel is not fitted anew whenever something is suggested.
_FEW = 48
# The factor by which those leave the best rates found for the reference.
_NEAR = 3.0


class Sampler:
    """Suggests trials.

    Law: the same trials and seed give the same suggestions, whatever was suggested before. What it
    keeps is what it would find again.
    """

    def __init__(self, space: SearchSpace, seed: int) -> None:
        self._space, self._seed = space, seed
        self._box = space.box()
        self._fitted: tuple[int, Kernel] | None = None

    def has_model(self, trials: RankedTrials, ahead: int = 0) -> bool:
        """Whether there are enough joint trials, ended or not, for suggestions to be modelled."""
        return len(trials.trials) + ahead - trials.references >= _STARTUP

    def suggest(self, trials: RankedTrials, ahead: Sequence[Values], n: int = 1) -> list[Values]:
        """Parameters of the next `n` joint trials, when those of `ahead` are as good as running.

        At first at random: weights anywhere, rates near the best that the reference was seen with.
        Then by a Gaussian process, with the running trials in mind.
        """
        known = len(trials.trials) + len(ahead)
        if not self.has_model(trials, len(ahead)):
            rng = np.random.default_rng([self._seed, known])
            return [_random(trials, self._space, rng) for _ in range(n)]
        draw = np.random.RandomState((self._seed + known) % 2**31)
        running = self._points([*(t.params for t in trials.running), *ahead])
        with one_thread(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = self._modelled(trials, running, draw, n)
        return [
            {name: r.at(x) for (name, r), x in zip(self._box.items(), point, strict=True)}
            for point in found.tolist()
        ]

    def _modelled(
        self, trials: RankedTrials, running: np.ndarray, rng: np.random.RandomState, n: int
    ) -> np.ndarray:
        points, values = self._seen(trials)
        if not len(points):  # all that is known is that they run
            return rng.uniform(size=(n, len(self._box)))
        process = Process(self._kernel(trials), points, values)
        choose = process.one_by_one if len(running) + n < CROWD else process.together
        return choose(n, running, rng)

    def _seen(self, trials: RankedTrials) -> tuple[np.ndarray, np.ndarray]:
        shown = view(trials)
        return self._points([t.params for t, _ in shown]), np.array([value for _, value in shown])

    def _points(self, params: Sequence[Values]) -> np.ndarray:
        """Where these parameters (n) are in the unit cube: (n, d)."""
        shares = [[r.share(p[name]) for name, r in self._box.items()] for p in params]
        return np.array(shares).reshape(len(params), len(self._box))

    def _kernel(self, trials: RankedTrials) -> Kernel:
        """Fitted to all that have ended while they are few; then only now and then.

        Then it hangs on the first trials alone, up to a round number below the first that runs. So
        it is known for long, to whoever takes up the search, too.
        """
        first = trials.running[0].number if trials.running else len(trials.trials)
        settled = _rounded(first)
        if settled < _FEW:
            return fit(*self._seen(trials))
        if self._fitted is None or self._fitted[0] != settled:
            early = RankedTrials(self._space, trials.rungs, trials.trials[:settled])
            self._fitted = settled, fit(*self._seen(early))
        return self._fitted[1]


def _rounded(n: int) -> int:
    """The largest number up to `n` that has three significant bits: 48, 56, 64, 80, 96, 112."""
    return n - n % (1 << max(0, n.bit_length() - 3))


def _random(trials: RankedTrials, space: SearchSpace, rng: np.random.Generator) -> Values:
    drawn = {name: r.at(rng.random()) for name, r in space.box().items()}
    scored = (t for t in trials.trials if not math.isnan(t.score))
    references = [t for t in scored if space.is_reference(t.params)]
    if references:
        best = max(references, key=lambda t: t.score)
        for name in space.rates():
            r = space.ranges[name]
            factor = _NEAR ** rng.uniform(-1, 1)
            drawn[name] = min(max(best.params[name] * factor, r.low), r.high)
    return drawn


def view(trials: RankedTrials) -> list[tuple[StudiedTrial, float]]:
    """The ended trials as the sampler is to see them: the best and the latest, by number.

    The record says PRUNED or FAIL, which would not be looked at, and so suggested again. It is
    shown a stopped trial's score plus what the survivors of its rung gained, and for a diverged one
    the worst score of all. One outlier must not be all that it sees. That they are not all bounds
    the cost of a fit, which grows with the cube.
    """
    least, gains = min(0.0, trials.worst()), {step: trials.gain(step) for step in trials.rungs}

    def value(trial: StudiedTrial) -> float:
        if trial.state == "complete" and not math.isnan(trial.score):
            return max(trial.score, _FLOOR)
        if trial.state == "pruned" and not math.isnan(trial.score):
            return max(trial.score + gains[max(trial.reports)], _FLOOR)
        return max(least, _FLOOR)

    def ranked(group: Iterator[StudiedTrial]) -> Iterator[tuple[float, int]]:
        return ((-value(t), t.number) for t in group)

    groups = (trials.complete(reference=False), trials.complete(reference=True), trials.failed())
    best = heapq.merge(*map(ranked, [*groups, *trials.stopped()]))
    ended = (t.number for t in reversed(trials.trials) if t.state != "running")
    numbers = {number for _, number in islice(best, _MOST // 2)} | {*islice(ended, _MOST // 2)}
    return [(trials.trials[i], value(trials.trials[i])) for i in sorted(numbers)]
