"""What a search has found: a pure function of its records."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from orchestrator.search import Records
from orchestrator.selection import Interval, Verdict, best_candidate, interval, verdict
from orchestrator.space import SOFT_WEIGHT
from orchestrator.study import Record, Studied


@dataclass(frozen=True)
class Finalist:
    """A trial that was trained again: `score` is over new seeds, on fresh validation episodes."""

    number: int
    reference: bool
    search_score: float
    score: Interval
    hyperparameters: Mapping[str, float]
    task_weights: Mapping[str, float]


@dataclass(frozen=True)
class Summary:
    """All that a search has to say so far.

    Tests are in the `measure` of the search: accuracies, shares in [0, 1], or skills where any task
    has numbers, which are shares of the variance that the model explains.
    """

    name: str
    state: str  # "running" or "complete"
    trials: Mapping[str, int]
    lanes: int | None  # of each worker; None before the first has begun
    occupancy: float
    top: Sequence[Studied]  # by score in the search
    finalists: Sequence[Finalist]
    best: Finalist | None
    baseline: Finalist | None  # the reference, its rates tuned
    verdict: Verdict | None
    measure: str  # "accuracy" or "skill"
    difference: Interval | None  # challenger's measure on the test tasks less the baseline's
    test: Mapping[str, Interval]  # measure on the test tasks of "challenger" and "baseline"
    figures: Mapping[str, float]  # accuracies of what was not searched, such as the teacher
    null_losses: Mapping[str, float] = field(default_factory=dict)  # of the training tasks
    share: str = ""  # what a measure is a share of, where that has to be said

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; a NaN becomes null."""
        best = self.best
        found: dict[str, Any] = _plain(
            {
                "name": self.name,
                "state": self.state,
                "trials": dict(self.trials),
                "lanes": self.lanes,
                "occupancy": self.occupancy,
                "best": None if best is None else _finalist(best),
                "finalists": [_finalist(f) for f in self.finalists],
                "baseline": None if self.baseline is None else _finalist(self.baseline),
                "verdict": self.verdict,
                "measure": self.measure,
                "difference": None if self.difference is None else vars(self.difference),
                "test": {name: vars(value) for name, value in self.test.items()},
                "figures": dict(self.figures),
                "null_losses": dict(self.null_losses),
            }
        )
        return found


def summarise(name: str, records: Records, *, top: int = 10) -> Summary:
    """The summary of what the records hold."""
    trials, finals = records.search.trials(), records.final.trials()
    tests = records.test.trials()
    ranked = sorted(
        (t for t in trials if t.state == "complete"), key=lambda t: (-t.score, t.number)
    )
    by_number = {t.number: t for t in trials}
    found = [
        _finalist_of(by_number[number], [t for t in finals if t.notes["candidate"] == number])
        for number in dict.fromkeys(t.notes["candidate"] for t in finals if t.notes)
    ]
    done = records.search.notes.get("state") == "complete"
    challenger = best_candidate(finals, reference=False) if done else None
    reference = best_candidate(finals, reference=True) if done else None
    measure = _measure(finals)
    tested = {
        "challenger": _tested(tests, challenger, measure),
        "baseline": _tested(tests, reference, measure),
    }
    difference = None
    if seeds := sorted(tested["challenger"].keys() & tested["baseline"].keys()):
        ours, theirs = (np.array([rows[j] for j in seeds]) for rows in tested.values())
        difference = interval(ours - theirs, of_tasks=True)
    return Summary(
        name=name,
        state="complete" if done else "running",
        trials={
            state: sum(t.state == state for t in trials)
            for state in ("complete", "stopped", "failed", "running")
        },
        lanes=records.search.notes.get("lanes"),
        occupancy=occupancy((records.search, records.final)),
        top=ranked[:top],
        finalists=sorted(found, key=lambda f: -_rank(f)),
        best=max(found, key=_rank, default=None) if done else None,
        baseline=next((f for f in found if f.number == reference), None),
        verdict=None if difference is None else verdict(difference),
        measure=measure,
        difference=difference,
        test={
            name: interval(np.array(list(rows.values())), of_tasks=True)
            for name, rows in tested.items()
            if rows
        },
        figures=dict(records.search.notes.get("figures", {})),
        null_losses=dict(records.search.notes.get("null_losses", {})),
        share=_share(finals),
    )


def occupancy(records: Sequence[Record]) -> float:
    """Share of the lanes' steps that trained a trial; NaN before the first step."""
    steps = [record.notes.get("steps", (0, 0)) for record in records]
    capacity = sum(step[1] for step in steps)
    return sum(step[0] for step in steps) / capacity if capacity else math.nan


def _rank(finalist: Finalist) -> float:
    return -math.inf if math.isnan(finalist.score.mean) else finalist.score.mean


def _finalist_of(trial: Studied, finals: Sequence[Studied]) -> Finalist:
    return Finalist(
        trial.number,
        finals[0].notes["reference"],
        trial.score,
        interval(_scores(finals), of_tasks=False),
        trial.notes["hyperparameters"],
        trial.notes["task_weights"],
    )


def _scores(finals: Sequence[Studied]) -> np.ndarray:
    """Skill (seeds, tasks) of a finalist's trainings; NaN until all of them have ended well."""
    if any(t.state != "complete" for t in finals):
        return np.full((1, 1), np.nan)
    return np.array([[task["skill"][0] for task in t.notes["tasks"].values()] for t in finals])


def _measure(finals: Sequence[Studied]) -> str:
    """What every adaptation was told of: accuracy, or where not all have classes, skill."""
    return "accuracy" if all(_classifies(finals)) else "skill"


def _share(finals: Sequence[Studied]) -> str:
    """What a skill is a share of: of numbers the variance, of classes what guessing leaves."""
    classifies = _classifies(finals)
    if all(classifies):
        return ""
    return "the way from guessing to perfect" if any(classifies) else "the variance explained"


def _classifies(finals: Sequence[Studied]) -> list[bool]:
    return ["accuracy" in task for t in finals for task in t.notes.get("tasks", {}).values()]


def _tested(
    tests: Sequence[Studied], candidate: int | None, measure: str
) -> dict[int, list[float]]:
    """A candidate's measures on the test tasks, by the seed that it was trained with."""
    return {
        t.notes["seed_index"]: [_mean(task[measure]) for task in t.notes["tasks"].values()]
        for t in tests
        if t.notes.get("candidate") == candidate and t.state == "complete"
    }


def _mean(value: float | Sequence[float]) -> float:
    """Of an estimate, or a number that is a mean itself."""
    return value if isinstance(value, float) else value[0]


def _finalist(finalist: Finalist) -> dict[str, Any]:
    return vars(finalist) | {"score": vars(finalist.score)}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def sentence(summary: Summary) -> str:
    """What the search found, in one plain sentence."""
    if summary.best is None:
        ended = summary.state == "complete"
        return "No trial reached its end." if ended else "The search has not ended yet."
    weights = bool(summary.best.task_weights)
    reference = "uniform task weights" if weights else "labels alone"
    if weights and summary.baseline and summary.baseline.hyperparameters.get(SOFT_WEIGHT) == 0:
        reference += " without a teacher,"
    what = f" of {summary.share}" if summary.share else ""
    if summary.difference is None:
        shown = summary.test.get("challenger") or summary.test.get("baseline")
        where = "" if shown is None else f": {_percent(shown)}{what} on the test tasks"
        return f"Trial {summary.best.number} is best{where}; there was nothing to compare it with."
    gain = 100 * summary.difference.mean
    low, high = 100 * summary.difference.low, 100 * summary.difference.high
    said = {
        "better": "What the search found is better than",
        "no better": "What the search found is no better than",
        "undecided": "It can't be told yet whether what the search found is better than",
    }[summary.verdict or "undecided"]
    return (
        f"{said} {reference} with tuned rates: {_percent(summary.test['challenger'])} against "
        f"{_percent(summary.test['baseline'])}{what} on the test tasks, a difference of "
        f"{gain:+.1f} points (95 % interval {low:+.1f} to {high:+.1f})."
    )


def _percent(value: Interval) -> str:
    return f"{100 * value.mean:.1f} %"
