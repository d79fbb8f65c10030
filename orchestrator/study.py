"""The record of a search: an Optuna study that only the driver writes."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import FloatDistribution
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from fewshot.faults import fault
from orchestrator.space import Range, Values
from trials.contract import Outcome

optuna.logging.set_verbosity(optuna.logging.ERROR)

_STATES: Mapping[TrialState, str] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "stopped",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


@dataclass(frozen=True)
class Studied:
    """A trial as the study has it: `reports` are scores by step, `notes` what else was kept."""

    number: int
    state: str  # complete, stopped, failed, running or waiting
    params: Values
    reports: Mapping[int, float]
    notes: Mapping[str, Any]

    @property
    def score(self) -> float:
        """The last reported score; NaN before the first."""
        return self.reports[max(self.reports)] if self.reports else float("nan")


def distributions(box: Mapping[str, Range]) -> dict[str, optuna.distributions.BaseDistribution]:
    """Optuna's words for the ranges."""
    return {name: FloatDistribution(r.low, r.high, log=r.log) for name, r in box.items()}


class Record:
    """One study. Trials are asked for with parameters that were decided elsewhere."""

    def __init__(self, study: optuna.Study, box: Mapping[str, Range]) -> None:
        self._study, self._box = study, box

    @classmethod
    def open(cls, storage: BaseStorage, name: str, box: Mapping[str, Range]) -> "Record":
        """The study `name`, made if it is not there."""
        return cls(
            optuna.create_study(
                storage=storage,
                study_name=name,
                direction="maximize",
                sampler=optuna.samplers.RandomSampler(seed=0),  # never draws: all is enqueued
                pruner=optuna.pruners.NopPruner(),
                load_if_exists=True,
            ),
            box,
        )

    def trials(self) -> list[Studied]:
        """All trials, by number."""
        return [_studied(t) for t in self._study.get_trials(deepcopy=False)]

    def ask(self, params: Mapping[str, float], notes: Mapping[str, Any] | None = None) -> Studied:
        """A new running trial with these parameters (or one that an earlier crash left waiting)."""
        waiting = self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        if not waiting:
            self._study.enqueue_trial(dict(params), user_attrs=dict(notes or {}))
        trial = self._study.ask(distributions(self._box))
        return _studied(self._frozen(trial.number))

    def adopt(self, number: int) -> int:
        """Take over a running trial whose driver or worker is gone; returns which attempt it is."""
        attempt = int(self._frozen(number).user_attrs.get("attempt", 0)) + 1
        live = self._live(number)
        live.set_user_attr("attempt", attempt)
        for name, r in self._box.items():  # `ask` may have been cut off between two of them
            live.suggest_float(name, r.low, r.high, log=r.log)
        return attempt

    def report(self, number: int, step: int, score: float) -> None:
        """Keep the score at a step; the first one given for a step stays."""
        if step not in self._frozen(number).intermediate_values:
            self._live(number).report(score, step)

    def finish(self, number: int, outcome: Outcome, score: float, notes: Mapping[str, Any]) -> None:
        """End a running trial; one that has ended stays as it is."""
        if self._frozen(number).state.is_finished():
            return
        live = self._live(number)
        for key, value in notes.items():
            live.set_user_attr(key, value)
        if outcome == "complete":
            self._study.tell(number, score)
        else:
            state = TrialState.PRUNED if outcome == "stopped" else TrialState.FAIL
            self._study.tell(number, state=state)

    @property
    def notes(self) -> Mapping[str, Any]:
        """What was kept of the study as a whole."""
        return self._study.user_attrs

    def note(self, key: str, value: Any) -> None:
        self._study.set_user_attr(key, value)

    def _frozen(self, number: int) -> FrozenTrial:
        return self._study.get_trials(deepcopy=False)[number]

    def _live(self, number: int) -> Trial:
        # `ask` hands out a live trial once; after a restart this is the only way back to it.
        return Trial(self._study, self._frozen(number)._trial_id)


def _studied(trial: FrozenTrial) -> Studied:
    return Studied(
        trial.number,
        _STATES[trial.state],
        dict(trial.system_attrs.get("fixed_params", {})) | trial.params,
        dict(trial.intermediate_values),
        dict(trial.user_attrs),
    )


@contextmanager
def opened(storage: str) -> Iterator[BaseStorage]:
    """The storage at an absolute path of a journal file, or at a database's URL.

    The caller must be the journal's only writer: a lock that a crash left behind is removed, which
    would otherwise hold its successor up for 30 seconds.
    """
    if "://" in storage:
        yield _database(storage)
        return
    path = Path(storage)
    if not path.is_absolute():  # a relative one can spin for ever on a stale lock
        raise ValueError(f"The journal's path must be absolute, got {storage!r}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(path.name + ".lock")
    if lock.is_symlink():
        os.unlink(lock)
    if path.exists():
        _drop_torn_line(path)
    yield JournalStorage(JournalFileBackend(str(path)))


def _database(url: str) -> RDBStorage:
    try:
        return RDBStorage(url)
    except (ImportError, SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        reason = str(error).partition("\n")[0]  # and not the URL, which may have a password
        raise fault("FEWTUNE_STORAGE", f"can't be used: {reason}", None, "Check the URL.") from None


def _drop_torn_line(path: Path) -> None:
    """Cut off what a crash of the machine left half written: what comes after it would be lost."""
    with path.open("rb+") as file:
        content = file.read()
        if not content.endswith(b"\n"):
            file.truncate(content.rfind(b"\n") + 1)


def read(storage: str, name: str) -> Record | None:
    """The study `name` for reading only; None if there is none."""
    if "://" not in storage and not Path(storage).exists():
        return None
    backend = (
        _database(storage) if "://" in storage else JournalStorage(JournalFileBackend(storage))
    )
    try:
        return Record(optuna.load_study(study_name=name, storage=backend), {})
    except KeyError:
        return None
