"""What models scored on the test tasks, for the comparison of two of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.record.studies.study import StudiedTrial
from orchestrator.results.retrained import SKILLS, Finalist
from orchestrator.search.finals.finalists import Role
from orchestrator.search.finals.intervals import (
    MIN_TASKS,
    Interval,
    interval,
    interval_of_problems,
)

# The key of a test in `Summary.test`, by the role of the model.
TESTED: Mapping[Role, str] = {
    "searched": "candidate",
    "uniform": "uniform",
    "untrained": "untrained",
}
BOUNDS = {"accuracy": (0.0, 1.0), "skill": SKILLS, "score": (-math.inf, math.inf)}
_DIFFERENCES = {**BOUNDS, "accuracy": (-1.0, 1.0), "skill": (-math.inf, math.inf)}


@dataclass(frozen=True, eq=False)
class Measured:
    """A model's scores on held-out tasks, or the difference of two models.

    by_task: (seeds, tasks). by_problem: for each task (seeds, problems), if all tasks are a sample
    of problems, such as goals or schools; else empty.
    """

    by_task: np.ndarray
    by_problem: tuple[np.ndarray, ...] = ()

    def minus(self, other: "Measured") -> "Measured":
        return Measured(
            self.by_task - other.by_task,
            tuple(a - b for a, b in zip(self.by_problem, other.by_problem, strict=False)),
        )

    def of_seeds(self, n: int) -> "Measured":
        """The scores of the first n seeds."""
        return Measured(self.by_task[:n], tuple(table[:n] for table in self.by_problem))

    def of_task(self, i: int) -> "Measured":
        """The scores on one task alone."""
        return Measured(self.by_task[:, [i]], self.by_problem[i : i + 1])

    def interval(self, within: tuple[float, float], *, of_tasks: bool = True) -> Interval:
        """The mean with its interval over seeds, and over tasks if there are enough of them.

        With fewer tasks it is over their problems, if these are known. of_tasks: whether the tasks
        are a sample of all tasks, see `interval`.
        """
        if self.by_problem and self.by_task.shape[1] < MIN_TASKS:
            return interval_of_problems(self.by_problem, within=within)
        return interval(self.by_task, of_tasks=of_tasks, within=within)


def difference_bounds(measure: str) -> tuple[float, float]:
    """The range of differences in a measure."""
    return _DIFFERENCES[measure]


def measure_tables(
    tests: Sequence[StudiedTrial], known: Sequence[Finalist], measure: str
) -> dict[str, Measured]:
    """Measures on the test tasks, by the keys of `TESTED`; all trained models have the same seeds.

    tests: trials of stage `final` or `test`.
    """
    rows = {f.role: notes_by_seed(tests, f) for f in known}
    trained = [by_seed for role, by_seed in rows.items() if role != "untrained" and by_seed]
    seeds = sorted(set.intersection(*(set(by_seed) for by_seed in trained))) if trained else [0]
    return {
        # The untrained model does not depend on the seed.
        TESTED[role]: measured([by_seed[0 if role == "untrained" else j] for j in seeds], measure)
        for role, by_seed in rows.items()
        if by_seed and seeds
    }


Notes = Mapping[str, Mapping[str, float | Sequence[float]]]  # of a trial, on its held-out tasks


def notes_by_seed(trials: Sequence[StudiedTrial], finalist: Finalist) -> dict[int, Notes]:
    """The metrics of a finalist's trials on their held-out tasks, by index of the training seed."""
    return {
        t.notes["seed_index"]: t.notes["tasks"]
        for t in trials
        if finalist.is_of(t) and t.state == "complete"
    }


def measured(by_seed: Sequence[Notes], measure: str) -> Measured:
    """The measures of trials on the same held-out tasks, one trial for each seed."""
    by_task = np.array([[_mean(task[measure]) for task in own.values()] for own in by_seed])
    known = measure == "skill" and all(
        "by_problem" in task for own in by_seed for task in own.values()
    )
    return Measured(
        by_task,
        tuple(np.array([own[task]["by_problem"] for own in by_seed]) for task in by_seed[0])
        if known
        else (),
    )


def _mean(value: float | Sequence[float]) -> float:
    """The mean of an estimate; a single number is a mean already."""
    return value if isinstance(value, float) else value[0]
