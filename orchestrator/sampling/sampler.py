"""The sampler: a pure function from the trials so far to the parameters of the next trials."""

import heapq
import math
import warnings
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from orchestrator.record.study import StudiedTrial
from orchestrator.sampling.gaussian_process import GaussianProcess, Kernel, fit, one_thread
from orchestrator.sampling.ranked_trials import RankedTrials
from orchestrator.space.search_space import SearchSpace, Values

# Number of joint trials drawn at random before the Gaussian process is used.
_STARTUP = 10
# Lower scores are clipped to this value; the skill on regression tasks has no lower bound.
_FLOOR = -1.0
# If there are at least this many running and wanted trials, suggestions are chosen in one batch: a
# hundred take the time of one. Otherwise each is optimised separately, which is more exact.
CROWD = 8
# The Gaussian process uses at most this many ended trials.
_MOST = 200
# From this number of ended trials on, the kernel is not refitted at each suggestion.
_FEW = 48
# Random trials draw each rate within this factor of the reference's best rate.
_NEAR = 3.0


class Sampler:
    """Suggests the parameters of trials.

    Law: the same trials and seed give the same suggestions, whatever was suggested before. Its only
    state is a cache of the kernel, which it could recompute.
    """

    def __init__(self, space: SearchSpace, seed: int) -> None:
        self._space, self._seed = space, seed
        self._box = space.box()
        self._fitted: tuple[int, Kernel] | None = None

    def has_model(self, trials: RankedTrials, ahead: int = 0) -> bool:
        """Whether there are enough joint trials, ended or not, to use the Gaussian process."""
        return len(trials.trials) + ahead - trials.references >= _STARTUP

    def suggest(self, trials: RankedTrials, ahead: Sequence[Values], n: int = 1) -> list[Values]:
        """Parameters of the next `n` joint trials; those of `ahead` are treated as running.

        The first suggestions have random weights, and random rates near the best rates of the
        reference. Later suggestions come from a Gaussian process that knows the running trials.
        """
        known = len(trials.trials) + len(ahead)
        if not self.has_model(trials, len(ahead)):
            rng = np.random.default_rng([self._seed, known])
            return [_random(trials, self._space, rng) for _ in range(n)]
        draw = np.random.RandomState((self._seed + known) % 2**31)
        running = self._points([*(t.params for t in trials.running), *ahead])
        with one_thread(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            suggested = self._modelled(trials, running, draw, n)
        return [
            {name: r.at(x) for (name, r), x in zip(self._box.items(), point, strict=True)}
            for point in suggested.tolist()
        ]

    def _modelled(
        self, trials: RankedTrials, running: np.ndarray, rng: np.random.RandomState, n: int
    ) -> np.ndarray:
        points, values = self._observations(trials)
        if not len(points):  # no trial has ended
            return rng.uniform(size=(n, len(self._box)))
        process = GaussianProcess(self._kernel(trials), points, values)
        choose = process.suggest_sequentially if len(running) + n < CROWD else process.suggest_batch
        return choose(n, running, rng)

    def _observations(self, trials: RankedTrials) -> tuple[np.ndarray, np.ndarray]:
        used = view(trials)
        return self._points([t.params for t, _ in used]), np.array([value for _, value in used])

    def _points(self, params: Sequence[Values]) -> np.ndarray:
        """Points (n, d) of the unit cube for n sets of parameters."""
        shares = [[r.share(p[name]) for name, r in self._box.items()] for p in params]
        return np.array(shares).reshape(len(params), len(self._box))

    def _kernel(self, trials: RankedTrials) -> Kernel:
        """The kernel: fitted to all ended trials while they are few, later refitted only rarely.

        Later it depends only on the first trials, up to a round number that is at most the number
        of the first running trial. So it changes rarely, and a resumed search gets the same kernel.
        """
        first = trials.running[0].number if trials.running else len(trials.trials)
        settled = _rounded(first)
        if settled < _FEW:
            return fit(*self._observations(trials))
        if self._fitted is None or self._fitted[0] != settled:
            early = RankedTrials(self._space, trials.rungs, trials.trials[:settled])
            self._fitted = settled, fit(*self._observations(early))
        return self._fitted[1]


def _rounded(n: int) -> int:
    """`n` rounded down to a number with three significant bits: 48, 56, 64, 80, 96, 112, ..."""
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
    """The best and the latest ended trials, sorted by number, with the values for the sampler.

    Without values for pruned and failed trials the sampler would suggest their parameters again. A
    pruned trial gets its score plus the mean gain of the trials that continued at its rung. A
    failed trial gets the worst score of all. Scores are clipped, so that one outlier does not
    dominate the model. The number of trials is limited, because a fit costs O(number cubed).
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
    best = heapq.merge(*map(ranked, [*groups, *trials.pruned()]))
    ended = (t.number for t in reversed(trials.trials) if t.state != "running")
    numbers = {number for _, number in islice(best, _MOST // 2)} | {*islice(ended, _MOST // 2)}
    return [(trials.trials[i], value(trials.trials[i])) for i in sorted(numbers)]
