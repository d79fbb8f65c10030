"""The sampler: a pure function from the trials so far to the parameters of the next trials."""

import heapq
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.record.studies.study import StudiedTrial, distributions
from orchestrator.sampling.process.candidates import anywhere
from orchestrator.sampling.process.points import NO_AFFINITY, Coordinates, Points
from orchestrator.sampling.ranked_trials import RankedTrials
from orchestrator.space.search_space import SearchSpace, Values
from orchestrator.space.simplex import Simplex

if TYPE_CHECKING:
    from orchestrator.sampling.process.gaussian_process import GaussianProcess

# Number of joint trials (all but the reference trials) that are drawn at random before the Gaussian
# process is used.
_STARTUP = 10
# Lower scores are clipped to this value; the skill on regression tasks has no lower bound.
_FLOOR = -1.0
# If all scores are negative, as losses are, those that are clipped are below the lower quartile by
# more than this many interquartile ranges.
_OUTLYING = 3.0
# If there are at least this many running and wanted trials, suggestions are chosen in one batch: a
# hundred take the time of one. Otherwise each is optimised separately, which is more exact.
CROWD = 8
# The Gaussian process uses at most this many ended trials.
_MOST = 200
# It knows at most this many running trials, the latest, and chooses at most this many together: the
# cost of a choice grows with the square of their number, and a thousand took 7 ms each.
MOST_PENDING = 256
# The expected gain is that of at most this many further trials.
_MOST_AHEAD = 128
# From this number of ended trials on, the kernel is not refitted at each suggestion.
_FEW = 48
# Half of the random trials have the choices of the best reference trial, and learning rates within
# this factor of its own; if a rate is not on a log scale, within this part of its range. So not all
# of them go to learners that the references have shown to be bad. The rates of the other half fill
# their whole ranges evenly, together with those of the references: the best of a few references may
# be best by noise only, and a model that knows rates of one place alone finds that they have no
# effect.
_NEAR, _PART = 3.0, 0.25


class Sampler:
    """Suggests the parameters of trials.

    affinity: how much each training task is expected to help; may be empty. See
    `trials.programs.similarity.affinity`. It shifts the first suggestions, and the model can use it
    or ignore it.

    Law: the same trials and seed give the same suggestions, whatever was suggested before. Its only
    state is a cache of the kernel, which it could recompute.
    """

    def __init__(
        self, space: SearchSpace, seed: int, affinity: Mapping[str, float] = NO_AFFINITY
    ) -> None:
        self._space, self._seed = space, seed
        self._coordinates = coordinates_of(space, affinity)
        self._fitted: tuple[int, GaussianProcess] | None = None

    def has_model(self, trials: RankedTrials, ahead: int = 0) -> bool:
        """Whether there are enough joint trials, ended or not, to use the Gaussian process."""
        return len(trials.trials) + ahead - trials.references >= _STARTUP

    def suggest(self, trials: RankedTrials, ahead: Sequence[Values], n: int = 1) -> list[Values]:
        """Parameters of the next `n` joint trials; those of `ahead` are treated as running.

        The first suggestions have random weights. Half of them have the choices of the best
        reference and rates near its own; in the others the rates fill their ranges evenly. Later
        suggestions come from a Gaussian process that knows the latest 256 running trials.
        """
        known = len(trials.trials) + len(ahead)
        rng = np.random.default_rng([self._seed, known])
        if not self.has_model(trials, len(ahead)):
            return [self._random(trials, rng, known + i) for i in range(n)]
        running = self._pending(trials, ahead)
        return self._coordinates.params(self._modelled(trials, running, rng, n))

    def last(self, trials: RankedTrials, left: int) -> Values | None:
        """Parameters of the trial that is `left`-th from the end: those with the highest posterior
        mean.

        None if there is no Gaussian process yet.
        """
        if not self.has_model(trials) or all(t.state == "running" for t in trials.trials):
            return None
        rng = np.random.default_rng([self._seed, left])
        return self._coordinates.params(self._process(trials).expected_best(rng))[0]

    def expected_gain(self, trials: RankedTrials, n: int) -> tuple[float, float] | None:
        """The gain in score that n more trials promise, and the standard error of the best score.

        At most 128 trials are considered. None before the Gaussian process is used.
        """
        if not self.has_model(trials) or all(t.state == "running" for t in trials.trials):
            return None
        rng = np.random.default_rng([self._seed, len(trials.trials), n])
        running = self._pending(trials, [])
        return self._process(trials).expected_gain(min(n, _MOST_AHEAD), running, rng)

    def _pending(self, trials: RankedTrials, ahead: Sequence[Values]) -> Points:
        """The latest of the running trials and of the suggestions made ahead."""
        running = [t.params for t in trials.running[-MOST_PENDING:]]
        return self._coordinates.points([*running, *ahead][-MOST_PENDING:])

    def _random(self, trials: RankedTrials, rng: np.random.Generator, number: int) -> Values:
        """Random weights; choices and rates of the best reference, or the next of the design."""
        drawn = self._coordinates.params(anywhere(1, self._coordinates, rng))[0]
        if rng.random() >= 0.5:
            return self._space.complete(drawn | _near_reference(trials, self._space, rng))
        rates = self._space.rates()
        if len(rates) == 1:  # its design has no next point, and the references fill the range
            return drawn
        even = self._space.rate_design(number + 1, self._seed)[-1]
        return drawn | {name: even[name] for name in rates if name in drawn and name in even}

    def _modelled(
        self, trials: RankedTrials, running: Points, rng: np.random.Generator, n: int
    ) -> Points:
        if all(t.state == "running" for t in trials.trials):
            return anywhere(n, self._coordinates, rng)
        process = self._process(trials)
        if len(running) + n < CROWD:
            return process.suggest(n, running, rng)
        found = running.take([])
        while len(found) < n:
            more = min(n - len(found), MOST_PENDING)
            found += process.suggest_batch(more, (running + found).last(MOST_PENDING), rng)
        return found

    def _observations(self, trials: RankedTrials) -> tuple[Points, np.ndarray]:
        used = view(trials)
        points = self._coordinates.points([t.params for t, _ in used])
        return points, np.array([value for _, value in used])

    def _process(self, trials: RankedTrials) -> "GaussianProcess":
        """The process of all ended trials; its kernel is fitted to all of them while they are few.

        Later the kernel is fitted to the first k trials, where k is the number of the first running
        trial, rounded down by `_rounded`. So it changes rarely, and a resumed search gets the same
        kernel.
        """
        # Imported here, because importing BoTorch takes a second.
        from orchestrator.sampling.process.gaussian_process import GaussianProcess

        first = trials.running[0].number if trials.running else len(trials.trials)
        settled = _rounded(first)
        observed = self._observations(trials)
        if settled < _FEW:
            return GaussianProcess(self._coordinates, *observed)
        if self._fitted is None or self._fitted[0] != settled:
            early = RankedTrials(self._space, trials.rungs, trials.trials[:settled])
            self._fitted = settled, GaussianProcess(self._coordinates, *self._observations(early))
        return GaussianProcess(self._coordinates, *observed, self._fitted[1])


def coordinates_of(space: SearchSpace, affinity: Mapping[str, float] = NO_AFFINITY) -> Coordinates:
    """The coordinates of the points of a search space."""
    simplex = space.weights if isinstance(space.weights, Simplex) else None
    return Coordinates(distributions(space.parameters()), simplex, affinity, space.conditions)


def _rounded(n: int) -> int:
    """`n` rounded down to a number with three significant bits: 48, 56, 64, 80, 96, 112, ..."""
    return n - n % (1 << max(0, n.bit_length() - 3))


def _near_reference(trials: RankedTrials, space: SearchSpace, rng: np.random.Generator) -> Values:
    """The choices of the best reference trial, with rates near its own; else none."""
    references = [
        t for t in trials.trials if not math.isnan(t.score) and space.is_reference(t.params)
    ]
    if not references:
        return {}
    best = max(references, key=lambda t: t.score).params
    found = space.chosen(best)
    for name in space.rates():
        if name not in best:
            continue
        r, step = space.ranges[name], rng.uniform(-1, 1)
        value = best[name] * _NEAR**step if r.log else best[name] + _PART * step * (r.high - r.low)
        found[name] = r.nearest(value)
    return found


def least_score(scores: Sequence[float]) -> float:
    """The value to which lower scores are clipped, so that outliers do not dominate a model."""
    finite = [score for score in scores if math.isfinite(score)]
    if not finite or max(finite) >= 0:
        return _FLOOR
    low, high = np.quantile(finite, [0.25, 0.75])
    return float(low - _OUTLYING * (high - low))


def view(trials: RankedTrials) -> list[tuple[StudiedTrial, float]]:
    """The best and the latest ended trials, sorted by number, with the values for the sampler.

    Without values for pruned and failed trials the sampler would suggest their parameters again. A
    pruned trial gets its score plus the mean gain, from its rung to the last one, of the trials
    that reached both. A failed trial gets the worst score, at most 0. Scores are clipped, so that
    one outlier does not dominate the model. At most 200 trials are used, because a fit costs
    O(number cubed).
    """
    floor = _FLOOR  # without looking at all trials, if the first ones show that skill is scored
    if not any(trial.score >= 0 and math.isfinite(trial.score) for trial in trials.trials):
        floor = least_score([trial.score for trial in trials.trials])
    least, gains = min(0.0, trials.worst()), {step: trials.gain(step) for step in trials.rungs}

    def value(trial: StudiedTrial) -> float:
        if trial.state == "complete" and not math.isnan(trial.score):
            return max(trial.score, floor)
        if trial.state == "pruned" and not math.isnan(trial.score):
            return max(trial.score + gains[max(trial.reports)], floor)
        return max(least, floor)

    def ranked(group: Iterator[StudiedTrial]) -> Iterator[tuple[float, int]]:
        return ((-value(t), t.number) for t in group)

    groups = (trials.complete(reference=False), trials.complete(reference=True), trials.failed())
    best = heapq.merge(*map(ranked, [*groups, *trials.pruned()]))
    ended = (t.number for t in reversed(trials.trials) if t.state != "running")
    numbers = {number for _, number in islice(best, _MOST // 2)} | {*islice(ended, _MOST // 2)}
    return [(trials.trials[i], value(trials.trials[i])) for i in sorted(numbers)]
