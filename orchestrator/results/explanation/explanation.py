"""The explanation of a search: which training tasks help, what mattered, can it be trusted."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.config.plan import Plan
from orchestrator.record.search_records import SearchRecords
from orchestrator.record.studies.study import StudiedTrial
from orchestrator.results.explanation import stored
from orchestrator.results.explanation.checks import HealthCheck, health_checks
from orchestrator.results.explanation.effects import (
    Effect,
    effect_of,
    effects,
    good_shares,
    mixtures,
)
from orchestrator.results.explanation.score_model import ScoreModel
from orchestrator.results.leaderboard import Summary
from orchestrator.sampling.importances import importances
from orchestrator.sampling.sampler import coordinates_of, least_score
from orchestrator.search.finals.intervals import Interval
from orchestrator.space.simplex import Simplex

Array = np.ndarray

# Effects need at least this many scored trials with other weights than the reference.
_ENOUGH = 10
# At most this many trials are used, evenly spaced: a fit costs O(number cubed). They are not chosen
# by score, because that would bias the effects.
_MOST = 120


@dataclass(frozen=True)
class TaskEffect:
    """What a search says about one training task, or about a group with one weight.

    effect: of a share of .1 on the score, see `effects.effects`; its ends are NaN if there are too
    few trials. weight: the share in the best trial, None before a trial completes. good: the lowest
    and the highest share among mixtures that are as good as the best within noise.
    on_validation: the effect on each validation task, without those whose scores are not recorded.
    """

    task: str
    tasks: tuple[str, ...]
    effect: Interval
    verdict: Effect
    weight: float | None
    good: tuple[float, float] | None
    on_validation: Mapping[str, Interval]


@dataclass(frozen=True)
class Explanation:
    """effects: in the order of the tasks; empty if weights are not searched.

    importances: parts of 1 by parameter, the largest first. checks: whether the result can be
    trusted.
    """

    effects: Sequence[TaskEffect]
    importances: Mapping[str, float]
    checks: Sequence[HealthCheck]

    def named(self, verdict: Effect) -> list[str]:
        """The training tasks with a verdict, the largest effect first."""
        chosen = [e for e in self.effects if e.verdict == verdict]
        return [e.task for e in sorted(chosen, key=lambda e: -abs(e.effect.mean))]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; a NaN becomes null. Effects are in skill, weights in [0, 1]."""
        return {
            "effects": [
                {
                    "task": e.task,
                    "tasks": list(e.tasks),
                    "effect": _plain(e.effect),
                    "verdict": e.verdict,
                    "weight": e.weight,
                    "good": None if e.good is None else list(e.good),
                    "on_validation": {task: _plain(i) for task, i in e.on_validation.items()},
                }
                for e in self.effects
            ],
            "importances": dict(self.importances),
            "checks": [vars(check) for check in self.checks],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Explanation":
        """The inverse of `to_dict`."""
        effects = [
            TaskEffect(
                task=e["task"],
                tasks=tuple(e["tasks"]),
                effect=_interval(e["effect"]),
                verdict=e["verdict"],
                weight=e["weight"],
                good=None if e["good"] is None else tuple(e["good"]),
                on_validation={task: _interval(i) for task, i in e["on_validation"].items()},
            )
            for e in data["effects"]
        ]
        checks = [HealthCheck(**check) for check in data["checks"]]
        return cls(effects, dict(data["importances"]), checks)

    def table(self) -> dict[str, Any]:
        """The effects as MLflow stores a table: the names of columns, and rows."""
        held_out = list(self.effects[0].on_validation) if self.effects else []
        columns = ["task", "verdict", "effect", "low", "high", "weight", "good_low", "good_high"]
        rows = []
        for e in self.effects:
            interval, good = _plain(e.effect), e.good or (None, None)
            row = [e.task, e.verdict, interval["mean"], interval["low"], interval["high"]]
            further = [_plain(e.on_validation[task])["mean"] for task in held_out]
            rows.append([*row, e.weight, *good, *further])
        return {"columns": [*columns, *(f"effect on {t}" for t in held_out)], "data": rows}


def _plain(interval: Interval) -> dict[str, float | str | None]:
    ends = {"mean": interval.mean, "low": interval.low, "high": interval.high}
    numbers = {name: None if math.isnan(value) else value for name, value in ends.items()}
    return {**numbers, "note": interval.note}


def _interval(data: Mapping[str, Any]) -> Interval:
    mean, low, high = (
        math.nan if data[name] is None else float(data[name]) for name in ("mean", "low", "high")
    )
    return Interval(mean, low, high, str(data["note"]))


def explained(
    summary: Summary,
    plan: Callable[[], Plan],
    records: SearchRecords,
    folder: Path | None = None,
) -> Summary:
    """The summary with an explanation, which is computed at its first use.

    folder: of the search; that of an ended search is kept there, and computed once.
    """

    def computed() -> Explanation:
        if folder is None or summary.state != "complete":
            return explain(plan(), records, summary)
        key = stored.key_of(records)
        if (known := stored.read(folder, key)) is not None:
            return Explanation.from_dict(known)
        found = explain(plan(), records, summary)
        stored.write(folder, key, found.to_dict())
        return found

    return replace(summary, explain=computed)


def explain(plan: Plan, records: SearchRecords, summary: Summary) -> Explanation:
    """The explanation of a search that runs or has ended; takes some seconds."""
    trials = records.search.trials()
    best = _best(trials, summary)
    return Explanation(
        _task_effects(plan, trials, best),
        importances(records.search, plan.space, plan.rungs),
        health_checks(plan, trials, summary, best),
    )


def _best(trials: Sequence[StudiedTrial], summary: Summary) -> StudiedTrial | None:
    """The best searched trial: after retraining, or else by its score."""
    if summary.candidate is not None and summary.candidate.number is not None:
        return trials[summary.candidate.number]
    complete = [t for t in trials if t.state == "complete" and not math.isnan(t.score)]
    return max(complete, key=lambda t: (t.score, -t.number), default=None)


def _task_effects(
    plan: Plan, trials: Sequence[StudiedTrial], best: StudiedTrial | None
) -> list[TaskEffect]:
    weights = plan.space.weights
    if not isinstance(weights, Simplex):
        return []
    groups: dict[str, list[str]] = {}
    for task, group in zip(weights.tasks, weights.groups or weights.tasks, strict=True):
        groups.setdefault(group, []).append(task)
    shares = None
    if best is not None:
        shares = coordinates_of(plan.space).points([best.params]).shares[0].tolist()
    found = _Found.of(plan, trials, best)
    return [
        TaskEffect(
            group if len(tasks) > 1 else tasks[0],
            tuple(tasks),
            found.effects[i],
            found.verdict(i, len(groups)),
            None if shares is None else shares[i],
            None if found.good is None else (float(found.good[0][i]), float(found.good[1][i])),
            {task: of[i] for task, of in found.on_validation.items()},
        )
        for i, (group, tasks) in enumerate(groups.items())
    ]


@dataclass(frozen=True)
class _Found:
    """Effects (g,) on the mean score and on each validation task; ends of the good shares."""

    effects: Sequence[Interval]
    good: tuple[Array, Array] | None
    on_validation: Mapping[str, Sequence[Interval]]

    def verdict(self, task: int, n_tasks: int) -> Effect:
        if self.good is None:
            return effect_of(self.effects[task])
        least, most = (float(end[task]) for end in self.good)
        return effect_of(self.effects[task], (least, most), 1 / n_tasks)

    @classmethod
    def of(cls, plan: Plan, trials: Sequence[StudiedTrial], best: StudiedTrial | None) -> "_Found":
        coordinates = coordinates_of(plan.space)
        n_tasks = len(coordinates.prior)
        used = _spaced([t for t in trials if t.state != "failed" and _scored(t.reports)])
        searched = [t for t in used if not plan.space.is_reference(t.params)]
        scores = _table([t.reports for t in used], plan.rungs)
        if best is None or len(searched) < _ENOUGH or not _differ(scores):
            note = f"{len(searched)} scored trials with searched weights are too few"
            return cls([Interval(math.nan, math.nan, math.nan, note)] * n_tasks, None, {})
        points = coordinates.points([t.params for t in used])
        features = coordinates.features(points)
        at = coordinates.features(coordinates.points([best.params]))[0, n_tasks:]
        of = mixtures(points.shares, at)
        roots, scalars = features[:, :n_tasks], features[:, n_tasks:]
        model = ScoreModel(roots, scalars, scores)
        on_validation = {}
        for task, rows in _by_validation_task(used).items():
            own = _table(rows, plan.rungs)
            known = ~np.isnan(own).all(1)
            if known.sum() >= _ENOUGH and _differ(own):
                fitted = ScoreModel(roots[known], scalars[known], own[known], model)
                on_validation[task] = effects(fitted, of)
        return cls(effects(model, of), good_shares(model, of), on_validation)


def _differ(scores: np.ndarray) -> bool:
    """Whether the known scores differ. By rounding, the deviation of equal ones may be above 0."""
    return bool(np.nanmax(scores) > np.nanmin(scores))


def _scored(reports: Mapping[int, float]) -> bool:
    return any(math.isfinite(score) for score in reports.values())


def _spaced(trials: Sequence[StudiedTrial]) -> list[StudiedTrial]:
    places = np.linspace(0, len(trials) - 1, min(_MOST, len(trials))).astype(int)
    return [trials[i] for i in places]


def _table(reports: Sequence[Mapping[int, float]], rungs: Sequence[int]) -> Array:
    """Scores (n, r) at the rungs; NaN where there is none."""
    table = np.array([[row.get(rung, math.nan) for rung in rungs] for row in reports])
    table = table.reshape(len(reports), len(rungs))
    finite = table[np.isfinite(table)]
    return np.maximum(np.where(np.isfinite(table), table, math.nan), least_score(finite.tolist()))


def _by_validation_task(
    trials: Sequence[StudiedTrial],
) -> dict[str, list[dict[int, float]]]:
    """For each validation task the skill of each trial by rung.

    Studies of earlier versions have the last rung of complete trials only; running trials have no
    skills yet.
    """
    by_trial = [_skills_of(trial) for trial in trials]
    names = dict.fromkeys(task for skills in by_trial for task in skills)
    return {task: [skills.get(task, {}) for skills in by_trial] for task in names}


def _skills_of(trial: StudiedTrial) -> dict[str, dict[int, float]]:
    steps = sorted(trial.reports)
    rows = trial.notes.get("rung_skills", {})
    if rows and all(len(row) == len(steps) for row in rows.values()):
        return {
            task: {s: math.nan if x is None else x for s, x in zip(steps, row, strict=True)}
            for task, row in rows.items()
        }
    last = trial.notes.get("tasks", {}) if trial.state == "complete" and steps else {}
    return {task: {steps[-1]: of["skill"][0]} for task, of in last.items() if "skill" in of}
