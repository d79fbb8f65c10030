"""What came of a variant's trials, and when."""

import math
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple


class Report(NamedTuple):
    """A score that a trial reached at a step; `time` is seconds since 1970."""

    time: float
    trial: int | str
    step: int
    score: float


class Limits(NamedTuple):
    """seconds: from the first report on, after which a search is cut off; patience: for MLflow."""

    seconds: float = math.inf
    patience: float = 600.0


@dataclass
class Course:
    """ended: trials that came to their end, and not to that of the time.
    begin: when the first trial took its first step, all workers being ready for it.
    end: when the last trial had said its last score; recorded: when MLflow had all of it.
    """

    last_step: int
    begin: float = 0.0
    end: float = 0.0
    recorded: float = 0.0
    reports: list[Report] = field(default_factory=list)
    ended: set[int | str] = field(default_factory=set)
    occupancy: float | None = None

    def is_late(self, seconds: float) -> bool:
        """Whether so much time has passed since the first report."""
        return bool(self.reports) and time.time() > self.reports[0].time + seconds

    def steps(self) -> int:
        """Steps of all trials together."""
        reached: defaultdict[int | str, int] = defaultdict(int)
        for report in self.reports:
            reached[report.trial] = max(reached[report.trial], report.step)
        return sum(reached.values())

    def best(self) -> list[tuple[float, float]]:
        """Seconds since the beginning, and the best score of a whole trial by then."""
        best: list[tuple[float, float]] = []
        for report in sorted(self.reports, key=lambda report: report.time):
            whole = report.step == self.last_step
            if whole and (not best or report.score > best[-1][1]):
                best.append((report.time - self.begin, report.score))
        return best
