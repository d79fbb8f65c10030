"""Health checks: whether the result of a search can be trusted, each with a remedy if not."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.config.plan import Plan
from orchestrator.record.studies.study import StudiedTrial
from orchestrator.results.leaderboard import Summary
from orchestrator.search.advice import on_edges
from orchestrator.search.finals.intervals import MIN_TASKS

Array = np.ndarray

# Complete trials that a rank correlation or a reliability needs.
_ENOUGH = 8
# The lowest values with which a check passes, see `_early_stopping` and `enough_validation_tasks`.
_CORRELATION, _RELIABILITY = 0.5, 0.7


@dataclass(frozen=True)
class HealthCheck:
    """passed: None if the search has too few trials to tell. text: the finding, and a remedy."""

    name: str
    passed: bool | None
    text: str


def health_checks(
    plan: Plan, trials: Sequence[StudiedTrial], summary: Summary, best: StudiedTrial | None
) -> list[HealthCheck]:
    """All checks of a search. best: its best trial."""
    complete = [t for t in trials if t.state == "complete" and not math.isnan(t.score)]
    return [
        _baseline(plan, complete, summary),
        enough_validation_tasks(complete),
        _search_space(plan, best),
        _early_stopping(plan, complete),
    ]


def _baseline(plan: Plan, complete: Sequence[StudiedTrial], summary: Summary) -> HealthCheck:
    """Whether the search beats its references, on the test tasks if they have been scored."""
    name = "baseline beaten"
    if summary.verdict is not None:
        remedy = "" if summary.verdict == "better" else " Add trials, or training tasks."
        where = "test" if summary.test else "validation"
        text = f"the verdict on the {where} tasks is: {summary.verdict}.{remedy}"
        return HealthCheck(name, summary.verdict == "better", text)
    references = [t.score for t in complete if plan.space.is_reference(t.params)]
    others = [t.score for t in complete if not plan.space.is_reference(t.params)]
    if not references or not others:
        return HealthCheck(name, None, "there is no reference and no other trial to compare yet.")
    gain = max(others) - max(references)
    text = (
        f"the best trial is {100 * gain:+.1f} points from the best reference trial, "
        "before both are retrained."
    )
    return HealthCheck(name, gain > 0, text)


def enough_validation_tasks(complete: Sequence[StudiedTrial]) -> HealthCheck:
    """Whether another sample of as many validation tasks would rank the better trials alike.

    Fewer than `MIN_TASKS` tasks are no sample. If they have problems, such as goals or schools,
    these are the sample instead.

    The reliability is Cronbach's alpha: the part of the variance between trials that is not due to
    the sample of tasks. Only the better half of the trials counts: bad ones are easy to rank.
    """
    name = "enough validation tasks"
    better = sorted(complete, key=lambda t: -t.score)[: max(_ENOUGH, len(complete) // 2)]
    table, what = _sample(better)
    if len(better) < _ENOUGH or not table.size:
        return HealthCheck(name, None, f"{len(complete)} complete trials are too few to tell.")
    n = table.shape[1]
    if n < MIN_TASKS:
        text = f"{n} validation {'task is' if n == 1 else 'tasks are'} too few to rank trials."
        return HealthCheck(name, False, f"{text} Use at least {MIN_TASKS}, better ten.")
    reliability = _alpha(table)
    ranking = f"the ranking of the better trials over {n} {what}"
    text = f"the reliability of {ranking} is {reliability:.2f}."
    if reliability >= _RELIABILITY:
        return HealthCheck(name, True, text)
    if reliability > 0.05:
        wanted = n * _RELIABILITY / (1 - _RELIABILITY) * (1 - reliability) / reliability
        more = f"About {math.ceil(wanted)} {what} would reach {_RELIABILITY}."
    else:
        more = "The better trials may be equally good."
    return HealthCheck(name, False, f"{text} {more}")


def _sample(trials: Sequence[StudiedTrial]) -> tuple[Array, str]:
    """Skills (n, k) on what is the random sample, and its name.

    These are tasks; or, if there are fewer than `MIN_TASKS`, their problems, such as groups or
    goals, if they are known.
    """
    tasks, problems = _skills(trials), _skills(trials, by_problem=True)
    if tasks.shape[1] < MIN_TASKS <= problems.shape[1]:
        return problems, "problems"
    return tasks, "tasks"


def _skills(trials: Sequence[StudiedTrial], *, by_problem: bool = False) -> Array:
    """The final skill (n, tasks) of complete trials; empty if it is not known for all of them.

    by_problem: (n, problems) instead, of all tasks.
    """
    tasks = [t.notes.get("tasks", {}).values() for t in trials]
    if by_problem:
        rows = [[skill for task in own for skill in task.get("by_problem", ())] for own in tasks]
    else:
        rows = [[task["skill"][0] for task in own] for own in tasks]
    if not rows or not rows[0] or len({len(row) for row in rows}) > 1:
        return np.zeros((0, 0))
    table = np.array(rows, float)
    return table if np.isfinite(table).all() else np.zeros((0, 0))


def _alpha(table: Array) -> float:
    n, k = table.shape
    trials, tasks = table.mean(1, keepdims=True), table.mean(0, keepdims=True)
    between = k * trials.var(ddof=1)
    residual = ((table - trials - tasks + table.mean()) ** 2).sum() / ((n - 1) * (k - 1))
    return max(0.0, 1 - residual / between) if between > 0 else 0.0


def _search_space(plan: Plan, best: StudiedTrial | None) -> HealthCheck:
    name = "search space wide enough"
    if best is None:
        return HealthCheck(name, None, "no trial has completed yet.")
    edges = on_edges(plan.space, [best])
    if edges:
        return HealthCheck(name, False, " ".join(str(advice) for advice in edges))
    return HealthCheck(name, True, "the best trial is not at the end of a range.")


def _early_stopping(plan: Plan, complete: Sequence[StudiedTrial]) -> HealthCheck:
    """The rank correlation of the scores at each rung with those at the last rung.

    Only complete trials have both, so it is lower than it would be for all trials.
    """
    name = "early stopping consistent"
    last = plan.rungs[-1]
    found: dict[int, float] = {}
    for rung in plan.rungs[:-1]:
        both = [t.reports for t in complete if rung in t.reports and last in t.reports]
        pairs = np.array([(r[rung], r[last]) for r in both], float).reshape(-1, 2)
        pairs = pairs[np.isfinite(pairs).all(1)]
        if len(pairs) >= _ENOUGH:
            found[rung] = rank_correlation(pairs[:, 0], pairs[:, 1])
    if len(plan.rungs) == 1:
        return HealthCheck(name, True, "no trial is pruned, because there is one rung.")
    if not found:
        return HealthCheck(name, None, f"{len(complete)} complete trials are too few to tell.")
    listed = ", ".join(f"{value:.2f} at step {rung}" for rung, value in found.items())
    text = f"rank correlation with the final scores: {listed}."
    passed = min(found.values()) >= _CORRELATION
    remedy = "" if passed else " Prune later (search.rungs) or less (a lower search.eta)."
    return HealthCheck(name, passed, text + remedy)


def rank_correlation(x: Array, y: Array) -> float:
    """Spearman's rank correlation; equal values share a rank; 0 if all values of one are equal."""
    from scipy.stats import rankdata  # importing it takes a second

    ranks = rankdata(x), rankdata(y)
    if min(r.std() for r in ranks) == 0:
        return 0.0
    return float(np.corrcoef(*ranks)[0, 1])
