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
    """planned: trials of the whole search. ended: those that came to their end, and when.
    begin: when the first trial took its first step, all workers being ready for it.
    end: of the last trial's last score, or of the time; recorded: when MLflow had all of it, if it
    was waited for.
    """

    last_step: int
    planned: int
    begin: float = 0.0
    end: float = 0.0
    recorded: float | None = None
    reports: list[Report] = field(default_factory=list)
    ended: dict[int | str, float] = field(default_factory=dict)
    occupancy: float | None = None

    def is_late(self, seconds: float) -> bool:
        """Whether so much time has passed since the first report."""
        return bool(self.reports) and time.time() > self.reports[0].time + seconds

    def close(self, seconds: float) -> None:
        """Forget what came later."""
        limit = self.reports[0].time + seconds
        self.reports = [report for report in self.reports if report.time <= limit]
        self.ended = {trial: at for trial, at in self.ended.items() if at <= limit}
        is_whole = len(self.ended) == self.planned
        self.end = max(report.time for report in self.reports) if is_whole else limit

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
