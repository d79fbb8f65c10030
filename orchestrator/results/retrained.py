"""The finalists with their scores on fresh validation episodes, and the choice among them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from fewshot.metrics import Estimate, mean_of
from orchestrator.record.studies.study import StudiedTrial
from orchestrator.search.finals.finalists import Role, best_candidate, role_of
from orchestrator.search.finals.intervals import MIN_TASKS, Interval, interval, standard_error

SKILLS = (-math.inf, 1.0)  # the range of skill
CLEAR = 2.0  # standard errors of the gain over uniform weights that the exported model needs


@dataclass(frozen=True)
class Finalist:
    """A model that was scored on fresh validation episodes.

    number: the number of the trial in the search whose parameters it has; None for the untrained
    model. Uniform weights may have only the rates and the choices of that trial; their
    `search_score` is then NaN. score: skill, with an interval over new seeds; for the untrained
    model, which has no seeds, over episodes.
    """

    number: int | None
    role: Role
    search_score: float
    score: Interval
    hyperparameters: Mapping[str, float]
    task_weights: Mapping[str, float]
    choices: Mapping[str, Any] = field(default_factory=dict)  # the searched options

    def is_of(self, trial: StudiedTrial) -> bool:
        """Whether a trial of stage `final` or `test` is one of this finalist's."""
        return role_of(trial) == self.role and trial.notes["candidate"] == self.number


def finalists_of(
    trials: Sequence[StudiedTrial], finals: Sequence[StudiedTrial], within: tuple[float, float]
) -> list[Finalist]:
    """The retrained candidates of a search of which at least one retraining has ended.

    trials: of the search. finals: the retrainings. within: the range of scores.
    """
    by_number = {t.number: t for t in trials}
    groups: dict[tuple[Role, int | None], list[StudiedTrial]] = {}
    for final in finals:
        groups.setdefault((role_of(final), final.notes["candidate"]), []).append(final)
    return [
        _untrained_of(trainings)
        if number is None
        else _finalist_of(by_number[number], trainings, within)
        for (_, number), trainings in groups.items()
        if number is None or any("hyperparameters" in t.notes for t in trainings)
    ]


def best_of(
    finalists: Sequence[Finalist],
    finals: Sequence[StudiedTrial],
    role: Literal["searched", "uniform"],
) -> Finalist | None:
    """The finalist of the role with the best mean; None if one of its retrainings failed."""
    number = best_candidate(finals, role)
    matching = (f for f in finalists if f.role == role and f.number == number)
    return next((f for f in matching if not math.isnan(f.score.mean)), None)


def exported(
    candidate: Finalist | None,
    uniform: Finalist | None,
    untrained: Finalist | None,
    finals: Sequence[StudiedTrial],
) -> Finalist | None:
    """The model to export: the best candidate, or else the better reference.

    Uniform weights are the better reference if their gain over the untrained model is larger than
    its standard error. The candidate needs such a gain too, and one over uniform weights of more
    than `CLEAR` standard errors: it was chosen among all trials on the same validation tasks, so
    its weights may suit only these.
    """
    reference, needed = untrained, 1.0
    if uniform is not None and (untrained is None or _gains(uniform, untrained, finals, 1.0)):
        reference, needed = uniform, CLEAR
    if candidate is None or reference is None:
        return candidate or reference
    return candidate if _gains(candidate, reference, finals, needed) else reference


def _gains(
    finalist: Finalist, reference: Finalist, finals: Sequence[StudiedTrial], errors: float
) -> bool:
    """Whether the gain over the reference is larger than so many of its standard errors."""
    ours = np.array(_skills([t for t in finals if finalist.is_of(t)]))
    gain = ours - np.array(_skills([t for t in finals if reference.is_of(t)]))
    sampled = gain.shape[1] >= MIN_TASKS
    error, _ = standard_error(gain, of_tasks=sampled)
    if not sampled and reference.number is None:
        # Too few tasks to be a sample; the episodes are the sample instead.
        error = math.hypot(error, mean_of(_estimates(finals, None)).standard_error)
    return bool(gain.mean() > errors * error)


def rank(finalist: Finalist) -> float:
    """The mean score, the lowest value if it is not known."""
    return -math.inf if math.isnan(finalist.score.mean) else finalist.score.mean


def _finalist_of(
    trial: StudiedTrial, finals: Sequence[StudiedTrial], within: tuple[float, float]
) -> Finalist:
    # The reference with the rates of another trial has other parameters than that trial. They are
    # noted when a retraining ends.
    own = next(t.notes for t in finals if "hyperparameters" in t.notes)
    same = all(own[key] == trial.notes[key] for key in ("hyperparameters", "task_weights"))
    return Finalist(
        trial.number,
        role_of(finals[0]),
        trial.score if same else math.nan,
        interval(np.array(_skills(finals)), of_tasks=False, within=within),
        own["hyperparameters"],
        own["task_weights"],
        own.get("choices", {}),
    )


def _untrained_of(finals: Sequence[StudiedTrial]) -> Finalist:
    tasks = _estimates(finals, None)
    score = Interval(math.nan, math.nan, math.nan)
    if tasks:
        mean = mean_of(tasks)
        low, high = mean.interval()
        score = Interval(mean.mean, low, min(high, SKILLS[1]), "over episodes: it has no seeds")
    return Finalist(None, "untrained", math.nan, score, {}, {})


def _estimates(finals: Sequence[StudiedTrial], candidate: int | None) -> list[Estimate]:
    """Skill on each validation task, from the candidate's first complete retraining."""
    complete = [t for t in finals if t.notes["candidate"] == candidate and t.state == "complete"]
    return [Estimate(*task["skill"]) for t in complete[:1] for task in t.notes["tasks"].values()]


def _skills(finals: Sequence[StudiedTrial]) -> list[list[float]]:
    """Skill (seeds, tasks) of a finalist's retrainings; NaN unless all of them are complete."""
    if any(t.state != "complete" for t in finals):
        return [[math.nan]]
    return [[task["skill"][0] for task in t.notes["tasks"].values()] for t in finals]
