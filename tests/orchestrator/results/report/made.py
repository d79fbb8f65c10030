"""Reports of searches that take no time, and what can be read from a page."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna

from orchestrator.config.plan import Plan
from orchestrator.executors.inline import InlineExecutor
from orchestrator.record.search_records import SearchRecords
from orchestrator.results.explanation.checks import HealthCheck
from orchestrator.results.explanation.effects import effect_of
from orchestrator.results.explanation.explanation import Explanation, TaskEffect, explained
from orchestrator.results.leaderboard import summarise
from orchestrator.results.report.findings import Findings
from orchestrator.results.report.report import html_of
from orchestrator.search.failures import SearchFailed
from orchestrator.search.finals.intervals import Interval
from orchestrator.search.loop import Stopped, run_search, score_untrained
from tests.orchestrator import tiny, toys
from tests.orchestrator.results.explanation import known
from trials.contract import Component, TrialSpec

UNTRAINED = replace(toys.RECIPE, model=Component(name="untrained"))


def found(plan: Plan, records: SearchRecords) -> Findings:
    """The findings of a search without a home; its config is only printed."""
    summary = explained(summarise(plan.name, records), lambda: plan, records)
    return Findings(summary, plan, tiny.config(), records)


def of_many_tasks(n: int, n_held_out: int, n_trials: int) -> Findings:
    """A search with many tasks, whose explanation is given: to compute it takes minutes."""
    names = [f"a training task with a long name, number {i}" for i in range(n)]
    plan = known.plan(names)
    held_out = {
        f"a held-out task, number {i}": known.additive({names[i % n]: 0.1})
        for i in range(n_held_out)
    }
    score = known.additive(dict.fromkeys(names, 0.01))
    made = found(plan, known.search(plan, score, n=n_trials, held_out=held_out))
    effects = []
    for i, name in enumerate(names):
        mean = 0.05 * (1 - 2 * i / n)
        value = Interval(mean, mean - 0.01, mean + 0.01)
        effects.append(TaskEffect(name, (name,), value, effect_of(value), 0.1, (0.0, 0.2), {}))
    told = Explanation(effects, {"lr/outer": 1.0}, [HealthCheck("baseline beaten", None, "no.")])
    return replace(made, summary=replace(made.summary, explain=lambda: told))


def toy(
    turns: int | None = None,
    *,
    score: Callable[[TrialSpec, int], float] = toys.skill,
    untrained: float | None = None,
    **changes: Any,
) -> Findings:
    """A search that is complete, or was stopped after some turns, or failed.

    untrained: the skill of the untrained model, if there is one.
    """
    plan = toys.plan(**changes)
    records = toys.records(optuna.storages.InMemoryStorage(), plan)

    def score_of_untrained(stage: Any) -> None:
        if untrained is not None:
            executor = InlineExecutor(lambda: toys.Toy(1, lambda spec, step: untrained))
            record = getattr(records, stage)
            score_untrained(plan, UNTRAINED, stage, record, executor, toys.Told())

    left = iter(range(turns or 10**9))
    try:
        score_of_untrained("final")
        run_search(
            plan,
            records,
            InlineExecutor(lambda: toys.Toy(4, score)),
            toys.Told(),
            task_sizes=toys.SIZES,
            should_stop=lambda: next(left, None) is None,
        )
    except (SearchFailed, Stopped):
        return found(plan, records)
    score_of_untrained("test")
    records.search.note("state", "complete")
    return found(plan, records)


class Page:
    """A page: its text, and the data and the figures that are embedded in it."""

    def __init__(self, source: str | Findings | Path) -> None:
        if isinstance(source, Path):
            source = source.read_text(encoding="utf-8")
        self.html = source if isinstance(source, str) else html_of(source)
        self.search = self._embedded("search")
        self.figures = self._embedded("figures")
        assert "can't be made" not in self.html

    def _embedded(self, id: str) -> dict[str, Any]:
        pattern = f'<script type="application/json" id="{id}">(.*?)</script>'
        (text,) = re.findall(pattern, self.html, re.DOTALL)
        data: dict[str, Any] = json.loads(text)
        return data

    @property
    def visible(self) -> str:
        """The HTML before the data and Plotly."""
        return self.html.partition("<main>")[2].partition("</main>")[0]

    def section(self, key: str) -> str:
        return self.visible.partition(f'<section id="{key}">')[2].partition("</section>")[0]

    def traces(self, figure: str) -> dict[str, dict[str, Any]]:
        """The traces of a figure by name."""
        return {trace.get("name", ""): trace for trace in self.figures[figure]["data"]}
