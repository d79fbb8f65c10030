"""What a report is made from: the records of a search, its plan and its summary."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from orchestrator.config.loading import data_of, dump, load_config
from orchestrator.config.plan import Plan, plan_of
from orchestrator.config.sections.own_loop import AnyConfig
from orchestrator.record.home import Home
from orchestrator.record.search_records import SearchRecords
from orchestrator.record.studies.study import StudiedTrial
from orchestrator.results.budget.stages import Stages, stages_of
from orchestrator.results.explanation.explanation import explained
from orchestrator.results.leaderboard import Summary, records_of, summary_of
from orchestrator.search.finals.intervals import Interval


@dataclass(frozen=True)
class Findings:
    """A search as its report sees it. `summary` has an explanation.

    stages: the measured splits between the stages, and the number of new tasks that they are for.
    """

    summary: Summary
    plan: Plan
    config: AnyConfig
    records: SearchRecords
    stages: tuple[Stages, int] | None = None

    @property
    def trials(self) -> Sequence[StudiedTrial]:
        """The trials of the search, in the order in which they started."""
        return self.records.search.trials()

    @cached_property
    def scored(self) -> Sequence[StudiedTrial]:
        """The complete trials with a score."""
        return [t for t in self.trials if t.state == "complete" and math.isfinite(t.score)]

    @property
    def references(self) -> Sequence[StudiedTrial]:
        """The complete trials with uniform weights, or with labels only."""
        return [t for t in self.scored if self.plan.space.is_reference(t.params)]

    @property
    def best_trial(self) -> StudiedTrial | None:
        """The best searched trial: after retraining, or else by its score."""
        chosen = self.summary.candidate
        if chosen is not None and chosen.number is not None:
            return self.trials[chosen.number]
        return max(self.scored, key=lambda t: (t.score, -t.number), default=None)

    @property
    def config_text(self) -> str:
        """The config as YAML."""
        return dump(self.config)

    @property
    def config_data(self) -> dict[str, Any]:
        """The config as plain values."""
        return data_of(self.config)

    @property
    def has_points(self) -> bool:
        """Whether differences are shown in points; own loops have scores of an unknown unit."""
        return self.summary.measure != "score"

    @property
    def unit(self) -> str:
        """The unit of differences."""
        return "points" if self.has_points else "score"

    def difference(self, value: float) -> float:
        """A difference of scores in `unit`."""
        return 100 * value if self.has_points else value

    def shown(self, value: float) -> str:
        """A difference as text, with its sign and unit."""
        return f"{100 * value:+.1f} points" if self.has_points else f"{value:+.4g}"

    def interval(self, value: Interval) -> str:
        """A difference with its interval, as text."""
        if math.isnan(value.mean):
            return "not known"
        if math.isnan(value.low):
            return f"{self.shown(value.mean)} ({value.note})"
        low, high = (self.shown(x).removesuffix(" points") for x in (value.low, value.high))
        return f"{self.shown(value.mean)} ({low} to {high})"


def findings_of(name: str, home: Home, new_tasks: int | None = None) -> Findings:
    """The findings of the search `name`, which may be running; InputError if there is none.

    new_tasks: if given, the splits between the stages are measured for so many new tasks.
    """
    records = records_of(name, home)
    found = findings(load_config(home.config(name)), summary_of(name, home), records)
    if new_tasks is None:
        return found
    return replace(found, stages=(stages_of(name, home), new_tasks))


def findings(config: AnyConfig, summary: Summary, records: SearchRecords) -> Findings:
    """The findings of a search. A summary that has an explanation keeps it."""
    plan = plan_of(config)
    if summary.explain is None:
        summary = explained(summary, lambda: plan, records)
    return Findings(summary, plan, config, records)
