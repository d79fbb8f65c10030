"""The reports of a variant's trials with their times."""

import math
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple


class Report(NamedTuple):
    """The score of a trial at a step; `time` is seconds since 1970."""

    time: float
    trial: int | str
    step: int
    score: float


class Limits(NamedTuple):
    """Seconds from the first report to the stop of a search, and seconds to wait for MLflow."""

    seconds: float = math.inf
    patience: float = 600.0


@dataclass
class Course:
    """The times and scores of one search.

    planned: number of trials of the whole search. ended: the trials that have ended, with the time.
    begin: time of the first step of the first trial, with all workers ready.
    end: time of the last score of the last trial, or of the cut-off. recorded: the time at which
    MLflow had all events; None if it was not awaited.
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
        """Whether more than `seconds` have passed since the first report."""
        return bool(self.reports) and time.time() > self.reports[0].time + seconds

    def close(self, seconds: float) -> None:
        """Set `end`, and drop all events later than `seconds` after the first report."""
        limit = self.reports[0].time + seconds
        self.reports = [report for report in self.reports if report.time <= limit]
        self.ended = {trial: at for trial, at in self.ended.items() if at <= limit}
        is_whole = len(self.ended) == self.planned
        self.end = max(report.time for report in self.reports) if is_whole else limit

    def steps(self) -> int:
        """The number of steps of all trials together."""
        reached: defaultdict[int | str, int] = defaultdict(int)
        for report in self.reports:
            reached[report.trial] = max(reached[report.trial], report.step)
        return sum(reached.values())

    def best(self) -> list[tuple[float, float]]:
        """Pairs of seconds since the start and the best score of a complete trial by then."""
        best: list[tuple[float, float]] = []
        for report in sorted(self.reports, key=lambda report: report.time):
            whole = report.step == self.last_step
            if whole and (not best or report.score > best[-1][1]):
                best.append((report.time - self.begin, report.score))
        return best
