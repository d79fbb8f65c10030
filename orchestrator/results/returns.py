"""What adaptation does to the returns of policies in the test worlds."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count, takewhile
from typing import Any

import numpy as np

from orchestrator.record.studies.study import StudiedTrial
from orchestrator.results.measures import TESTED, notes_by_seed
from orchestrator.results.retrained import Finalist


@dataclass(frozen=True)
class Returns:
    """A policy in one test world, in the mean over its training seeds and the test problems.

    model: a value of `TESTED`. after: the mean returns after 0, 1, .. steps of adaptation. worse:
    the share of problems in which the last return is below the first one; None without steps.
    """

    task: str
    model: str
    after: tuple[float, ...]
    worse: float | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def cells(self) -> list[str]:
        """The numbers as texts."""
        worse = "-" if self.worse is None else f"{100 * self.worse:.0f} %"
        return [*(f"{value:.4g}" for value in self.after), worse]


def returns_of(tests: Sequence[StudiedTrial], known: Sequence[Finalist]) -> list[Returns]:
    """The returns of these models, task by task; empty if the test tasks are not worlds."""
    by_model = {TESTED[f.role]: list(notes_by_seed(tests, f).values()) for f in known}
    tasks = {task: None for seeds in by_model.values() for own in seeds[:1] for task in own}
    return [
        _returns(task, model, [own[task] for own in seeds])
        for task in tasks
        for model, seeds in by_model.items()
        if seeds and "return_0" in seeds[0][task]
    ]


def header(returns: Sequence[Returns]) -> list[str]:
    """The names of `Returns.cells`. returns: with equally many steps."""
    steps = range(len(returns[0].after))
    return [*(f"{k} {'step' if k == 1 else 'steps'}" for k in steps), "made worse"]


def _returns(task: str, model: str, by_seed: Sequence[Mapping[str, Any]]) -> Returns:
    names = list(takewhile(by_seed[0].__contains__, (f"return_{k}" for k in count())))
    after = tuple(float(np.mean([own[name] for own in by_seed])) for name in names)
    worse = float(np.mean([own["worse"] for own in by_seed])) if len(names) > 1 else None
    return Returns(task, model, after, worse)
