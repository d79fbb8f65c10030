"""What the trials of a search say together, at a cost that does not grow with their number."""

import math
from bisect import insort
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from orchestrator.record.study import StudiedTrial
from orchestrator.space.search_space import SearchSpace

# The opposite of the score, the number, the trial: the first of such a list is the best.
Ranked = list[tuple[float, int, StudiedTrial]]
# Gains are summed in this unit: sums of floats would hang on the order in which trials ended.
_UNIT = 2.0**-40


class RankedTrials:
    """The trials of a search, and those that have ended by merit.

    Laws:
    - they hang on the trials alone, to the last bit, and not on when `update` was told of them;
    - an update costs what is running and what is new: trials that have ended stay as they are.
    """

    def __init__(
        self, space: SearchSpace, rungs: Sequence[int], trials: Sequence[StudiedTrial] = ()
    ) -> None:
        self._space, self.rungs, self._last = space, rungs, rungs[-1]
        self.trials: Sequence[StudiedTrial] = ()
        self.running: list[StudiedTrial] = []
        self.references = 0
        self._complete: Mapping[bool, Ranked] = {False: [], True: []}
        self._stopped: defaultdict[int, Ranked] = defaultdict(list)
        self._failed: Ranked = []
        self._running: list[int] = []  # where those are
        self._worst = math.inf
        self._gained: defaultdict[int, tuple[int, int]] = defaultdict(lambda: (0, 0))  # sum, number
        self.update(trials)

    def update(self, trials: Sequence[StudiedTrial]) -> None:
        """Take in `trials`: those of the last update as they are now, and more."""
        new = range(len(self.trials), len(trials))
        self.references += sum(self.is_reference(trials[i]) for i in new)
        unknown = [*self._running, *new]
        self._running = [i for i in unknown if trials[i].state == "running"]
        self.trials, self.running = trials, [trials[i] for i in self._running]
        for i in unknown:
            if trials[i].state != "running":
                self._end(trials[i])

    def _end(self, trial: StudiedTrial) -> None:
        score = trial.score
        if math.isnan(score) or trial.state not in ("complete", "pruned"):
            insort(self._failed, (0.0, trial.number, trial))
        elif trial.state == "complete":
            insort(self._complete[self.is_reference(trial)], (-score, trial.number, trial))
        else:
            insort(self._stopped[max(trial.reports)], (-score, trial.number, trial))
        if math.isfinite(score):
            self._worst = min(self._worst, score)
        for rung, gained in self._gains(trial):
            total, n = self._gained[rung]
            self._gained[rung] = total + gained, n + 1

    def _gains(self, trial: StudiedTrial) -> Iterator[tuple[int, int]]:
        """What a trial that reached the last rung gained since each, in units."""
        for rung, score in trial.reports.items():
            gained = trial.reports.get(self._last, math.nan) - score
            if math.isfinite(gained):
                yield rung, round(gained / _UNIT)

    def is_reference(self, trial: StudiedTrial) -> bool:
        """Whether a trial is the reference, at whatever rates."""
        return self._space.is_reference(trial.params)

    def complete(self, *, reference: bool) -> Iterator[StudiedTrial]:
        """The complete trials that have a score and are the reference or are not, best first."""
        return (trial for _, _, trial in self._complete[reference])

    def stopped(self) -> list[Iterator[StudiedTrial]]:
        """The trials that were stopped at each step, best first."""
        return [(trial for _, _, trial in ranked) for ranked in self._stopped.values()]

    def failed(self) -> Iterator[StudiedTrial]:
        """The trials that have ended and are none of these, by number."""
        return (trial for _, _, trial in self._failed)

    def worst(self) -> float:
        """The lowest score of all, those of running trials too; 0 if there is none."""
        scores = (t.score for t in self.running)
        worst = min([self._worst, *(score for score in scores if math.isfinite(score))])
        return worst if math.isfinite(worst) else 0.0

    def gain(self, rung: int) -> float:
        """Mean gain between a rung and the last of those that reached both; 0 if none has."""
        total, n = self._gained.get(rung, (0, 0))
        running = [g for t in self.running for r, g in self._gains(t) if r == rung]
        n += len(running)
        return (total + sum(running)) * _UNIT / n if n else 0.0
