"""Turns the scores of lanes into the reports of trials."""

import math
from collections.abc import Mapping, Sequence

import torch

from fewshot.metrics import Estimate, error_over_tasks, estimate
from trials.contract import AdaptationResult, RungReport, Stage, TrialSpec
from trials.lanes.objective import TaskScores

_DIGITS = 5  # of the skill on one problem
_GROUP = {"search": "val", "final": "val", "test": "test"}


def scores_of_lane(
    scores: Sequence[TaskScores], i: int, stage: Stage, *, finite: bool
) -> tuple[dict[str, Estimate], dict[str, float]]:
    """The skill of model i on each task, and all its other metrics.

    finite: whether the model's parameters are finite; if not, its skill is NaN.
    """
    nothing = torch.full((1,), torch.nan)
    per_task = {s.task: estimate(s.skill[i] if finite else nothing) for s in scores}
    metrics = {
        f"{_GROUP[stage]}/{s.task}/{name}": values[i].item()
        for s in scores
        for name, values in s.metrics.items()
    }
    over_tasks = error_over_tasks(list(per_task.values()))
    if not math.isnan(over_tasks):
        metrics["score_se_tasks"] = over_tasks
    return per_task, metrics


def skills_by_problem(scores: Sequence[TaskScores], i: int) -> dict[str, list[float]]:
    """The skill of model i on each problem, for tasks that are a sample of problems."""
    return {
        s.task: [round(value, _DIGITS) for value in s.skill[i].tolist()]
        for s in scores
        if s.of_problems
    }


def divergence_reason(per_task: Mapping[str, Estimate], step: int, *, finite: bool) -> str:
    """The reason why a trial with these skills has no score. Only valid if a skill is NaN.

    finite: whether all parameters are finite.
    """
    if not finite:
        return f"diverged: its parameters are not finite at step {step}"
    tasks = [task for task, score in per_task.items() if math.isnan(score.mean)]
    named = ", ".join(tasks[:3]) + (", .." if len(tasks) > 3 else "")
    return f"diverged: its score is NaN at step {step} on {named}, while its parameters are finite"


def adaptation_results(
    spec: TrialSpec, report: RungReport, seconds: float = 0.0
) -> tuple[AdaptationResult, ...]:
    """The adaptation results of a trial, taken from its last report.

    Scoring a model on a held-out task already adapts it to that task.
    """
    group = _GROUP[spec.stage]
    results = []
    for task, score in report.per_task.items():
        prefix = f"{group}/{task}/"
        metrics = {k[len(prefix) :]: v for k, v in report.metrics.items() if k.startswith(prefix)}
        results.append(
            AdaptationResult(
                task=task,
                split="test" if group == "test" else "validation",
                score=score,
                metrics=metrics,
                time=report.time,
                seconds=seconds,
                by_problem=report.by_problem.get(task, ()),
            )
        )
    return tuple(results)
