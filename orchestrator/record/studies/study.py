"""The record of a search: an Optuna study that only the driver writes."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from fewshot.errors.inputs import FewtuneError
from orchestrator.record.studies.database import open_database, patiently, trial_id
from orchestrator.record.studies.journal import Journal, open_for_reading
from orchestrator.space.choices import Choice, WholeRange
from orchestrator.space.search_space import Range, Values
from trials.contract import Outcome

optuna.logging.set_verbosity(optuna.logging.ERROR)

_STATES: Mapping[TrialState, str] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
}


@dataclass(frozen=True)
class StudiedTrial:
    """A trial in the study. `reports`: scores by step; `notes`: its other attributes.

    started, ended: in seconds since 1970; None before that. A trial that was interrupted and
    continued keeps its first start.
    """

    number: int
    state: str  # complete, pruned, failed or running
    params: Values
    reports: Mapping[int, float]
    notes: Mapping[str, Any]
    started: float | None = None
    # The storage reads the clock too, some microseconds before the record does.
    ended: float | None = field(default=None, compare=False)

    @property
    def score(self) -> float:
        """The last reported score; NaN before the first."""
        return self.reports[max(self.reports)] if self.reports else float("nan")


Box = Mapping[str, Range | Choice | WholeRange]


def distributions(box: Box) -> dict[str, BaseDistribution]:
    """The ranges as Optuna distributions."""
    return {name: _distribution(of) for name, of in box.items()}


def _distribution(of: Range | Choice | WholeRange) -> BaseDistribution:
    if isinstance(of, Choice):
        return CategoricalDistribution(of.options)
    if isinstance(of, WholeRange):
        return IntDistribution(of.low, of.high, step=of.step)
    return FloatDistribution(of.low, of.high, log=of.log)


class StudyRecord:
    """One study. The caller gives the parameters of each new trial.

    Only one process writes to a study, so the study is read once and then cached; the cost of an
    operation does not grow with the number of trials.

    While a database does not answer, each operation waits for it; see `patiently`.
    """

    def __init__(self, storage: BaseStorage, name: str, box: Box) -> None:
        self._storage, self._distributions = storage, distributions(box)
        self._study = patiently(lambda: storage.get_study_id_from_name(name))
        trials = patiently(lambda: storage.get_all_trials(self._study, deepcopy=False))
        self._ids = [trial._trial_id for trial in trials]
        self._trials = [_studied(trial) for trial in trials]
        self._notes = dict(patiently(lambda: storage.get_study_user_attrs(self._study)))

    @classmethod
    def open(cls, storage: BaseStorage, name: str, box: Box) -> "StudyRecord":
        """The study `name`; creates it if it does not exist."""
        try:
            return cls(storage, name, box)
        except KeyError:
            with suppress(optuna.exceptions.DuplicatedStudyError):  # created, but not confirmed
                patiently(lambda: storage.create_new_study([StudyDirection.MAXIMIZE], name))
            return cls(storage, name, box)

    def __len__(self) -> int:
        return len(self._trials)

    def __getitem__(self, number: int) -> StudiedTrial:
        return self._trials[number]

    def trials(self) -> list[StudiedTrial]:
        """All trials in their current state, by number."""
        return list(self._trials)

    def ask(
        self, params: Mapping[str, Any], notes: Mapping[str, Any] | None = None
    ) -> StudiedTrial:
        """Create a running trial with these parameters."""
        trial = create_trial(
            state=TrialState.RUNNING,
            params=dict(params),
            distributions={name: self._distributions[name] for name in params},
            user_attrs=dict(notes or {}),
        )
        self._ids.append(self._create(trial))
        trial.number = len(self._trials)
        self._trials.append(_studied(trial))
        return self._trials[-1]

    def _create(self, trial: FrozenTrial) -> int:
        """Create the trial in the storage; returns its id there."""
        number, storage = len(self._trials), self._storage

        # One operation, so that a crash leaves either the whole trial or nothing.
        def create() -> int:
            return storage.create_new_trial(self._study, trial)

        if not isinstance(storage, RDBStorage):
            return create()
        id = patiently(create, lambda: trial_id(storage, self._study, number) or create())
        # Optuna repeats a creation whose confirmation was lost, and then there are two.
        if patiently(lambda: trial_id(storage, self._study, number)) != id:
            raise FewtuneError(
                f"The study has a trial {number} that this search did not create. If nobody else "
                "writes to it, the connection to the database was cut; continue with `--resume`."
            )
        return id

    def adopt(self, number: int) -> int:
        """Take over a running trial whose driver or worker is gone; returns the attempt number."""
        attempt = int(self._trials[number].notes.get("attempt", 0)) + 1
        self._note_of(number, {"attempt": attempt})
        return attempt

    def report(self, number: int, step: int, score: float) -> None:
        """Record the score at a step; a later score for the same step is ignored."""
        trial = self._trials[number]
        if step not in trial.reports:
            id = self._ids[number]
            patiently(lambda: self._storage.set_trial_intermediate_value(id, step, score))
            self._trials[number] = replace(trial, reports={**trial.reports, step: score})

    def finish(self, number: int, outcome: Outcome, score: float, notes: Mapping[str, Any]) -> None:
        """End a running trial; does nothing if the trial has ended."""
        if self._trials[number].state != "running":
            return
        self._note_of(number, notes)
        ends = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
        state, id = ends.get(outcome, TrialState.FAIL), self._ids[number]
        values = None if outcome == "failed" or math.isnan(score) else [score]

        def end() -> bool:
            return self._storage.set_trial_state_values(id, state, values)

        patiently(end, lambda: self._storage.get_trial(id).state.is_finished() or end())
        self._trials[number] = replace(self._trials[number], state=outcome, ended=time.time())

    @property
    def notes(self) -> Mapping[str, Any]:
        """The attributes of the study."""
        return self._notes

    def note(self, key: str, value: Any) -> None:
        patiently(lambda: self._storage.set_study_user_attr(self._study, key, value))
        self._notes[key] = value

    def sync(self) -> None:
        """Write everything to the disk, so that it survives a power failure."""
        if isinstance(self._storage, Journal):  # databases do this themselves
            self._storage.sync()

    def _note_of(self, number: int, notes: Mapping[str, Any]) -> None:
        storage, id = self._storage, self._ids[number]
        for key, value in notes.items():
            patiently(partial(storage.set_trial_user_attr, id, key, value))
        trial = self._trials[number]
        self._trials[number] = replace(trial, notes={**trial.notes, **notes})


def _studied(trial: FrozenTrial) -> StudiedTrial:
    return StudiedTrial(
        trial.number,
        _STATES[trial.state],
        dict(trial.params),
        dict(trial.intermediate_values),
        dict(trial.user_attrs),
        None if trial.datetime_start is None else trial.datetime_start.timestamp(),
        None if trial.datetime_complete is None else trial.datetime_complete.timestamp(),
    )


@contextmanager
def open_storage(storage: str) -> Iterator[BaseStorage]:
    """Open a storage: a journal file, to which no other process may write, or a database URL."""
    if "://" in storage:
        yield open_database(storage)
        return
    path = Path(storage)
    path.parent.mkdir(parents=True, exist_ok=True)
    journal = Journal(path)
    try:
        yield journal
    finally:
        journal.close()


def read_study(storage: str, name: str) -> StudyRecord | None:
    """Open the study `name` for reading; None if it does not exist.

    Raises FewtuneError if a line of the journal can't be read.
    """
    if "://" not in storage and not Path(storage).exists():
        return None
    backend = open_database(storage) if "://" in storage else open_for_reading(Path(storage))
    try:
        return StudyRecord(backend, name, {})
    except KeyError:
        return None


def delete_studies(storage: str, name: str) -> None:
    """Delete the studies of the search `name`; a journal is deleted as a file."""
    if "://" not in storage:
        Path(storage).unlink(missing_ok=True)
        return
    backend = open_database(storage)
    for study in (name, f"{name}/final", f"{name}/test"):
        with suppress(KeyError):
            backend.delete_study(backend.get_study_id_from_name(study))
