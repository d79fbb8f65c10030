"""The trials of a search in ranked order, updated at a cost of O(running and new trials)."""

import math
from bisect import insort
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from orchestrator.record.studies.study import StudiedTrial
from orchestrator.space.search_space import SearchSpace

# (negative score, number, trial), ascending: the first entry is the best.
Ranked = list[tuple[float, int, StudiedTrial]]
# Gains are summed as integers in this unit, because a sum of floats depends on the order in which
# the trials ended.
_UNIT = 2.0**-40


class RankedTrials:
    """The trials of a search; those that have ended are ranked by score.

    Laws:
    - the state depends on the trials only, bit for bit, and not on the times of the updates;
    - an update costs O(running and new trials), because ended trials do not change.
    """

    def __init__(
        self, space: SearchSpace, rungs: Sequence[int], trials: Sequence[StudiedTrial] = ()
    ) -> None:
        self._space, self.rungs, self._last = space, rungs, rungs[-1]
        self.trials: Sequence[StudiedTrial] = ()
        self.running: list[StudiedTrial] = []
        self.references = 0
        self._complete: Mapping[bool, Ranked] = {False: [], True: []}
        self._pruned: defaultdict[int, Ranked] = defaultdict(list)
        self._failed: Ranked = []
        self._running: list[int] = []  # positions of the running trials in `trials`
        self._worst = math.inf
        self._gained: defaultdict[int, tuple[int, int]] = defaultdict(lambda: (0, 0))  # sum, number
        self.update(trials)

    def update(self, trials: Sequence[StudiedTrial]) -> None:
        """Set the current trials: those of the last update, in the same order, then new ones."""
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
            insort(self._pruned[max(trial.reports)], (-score, trial.number, trial))
        if math.isfinite(score):
            self._worst = min(self._worst, score)
        for rung, gained in self._gains(trial):
            total, n = self._gained[rung]
            self._gained[rung] = total + gained, n + 1

    def _gains(self, trial: StudiedTrial) -> Iterator[tuple[int, int]]:
        """For each rung of a trial that reached the last rung: (rung, gain from it, in units)."""
        for rung, score in trial.reports.items():
            gained = trial.reports.get(self._last, math.nan) - score
            if math.isfinite(gained):
                yield rung, round(gained / _UNIT)

    def is_reference(self, trial: StudiedTrial) -> bool:
        """Whether a trial is the reference, with any rates."""
        return self._space.is_reference(trial.params)

    def complete(self, *, reference: bool) -> Iterator[StudiedTrial]:
        """The complete trials with a score that are (or are not) the reference, best first."""
        return (trial for _, _, trial in self._complete[reference])

    def pruned(self) -> list[Iterator[StudiedTrial]]:
        """One iterator per rung over the trials that were pruned there, best first."""
        return [(trial for _, _, trial in ranked) for ranked in self._pruned.values()]

    def failed(self) -> Iterator[StudiedTrial]:
        """The ended trials without a place in `complete` and `pruned`, by number."""
        return (trial for _, _, trial in self._failed)

    def worst(self) -> float:
        """The lowest finite score, including the running trials; 0 if there is no score."""
        scores = (t.score for t in self.running)
        worst = min([self._worst, *(score for score in scores if math.isfinite(score))])
        return worst if math.isfinite(worst) else 0.0

    def gain(self, rung: int) -> float:
        """Mean gain from a rung to the last rung over trials that reached both; 0 if none did."""
        total, n = self._gained.get(rung, (0, 0))
        late = [t for t in self.running if self._last in t.reports]  # few: they are about to end
        running = [g for t in late for r, g in self._gains(t) if r == rung]
        n += len(running)
        return (total + sum(running)) * _UNIT / n if n else 0.0
