"""The three studies of a search."""

from dataclasses import dataclass

from optuna.storages import BaseStorage

from orchestrator.config.plan import Plan
from orchestrator.record.home import Home
from orchestrator.record.studies.study import StudyRecord, read_study


@dataclass(frozen=True)
class SearchRecords:
    """The studies of the searched trials, of the retrained finalists, and of the tests."""

    search: StudyRecord
    final: StudyRecord
    test: StudyRecord


def open_records(plan: Plan, storage: BaseStorage) -> SearchRecords:
    """Open the studies of the search for writing; creates those that do not exist."""
    return SearchRecords(
        StudyRecord.open(storage, plan.name, plan.space.box()),
        StudyRecord.open(storage, f"{plan.name}/final", {}),
        StudyRecord.open(storage, f"{plan.name}/test", {}),
    )


def read_records(name: str, home: Home) -> SearchRecords | None:
    """Read the studies of a search, running or not; None if one of them is missing."""
    storage = home.storage(name)
    search = read_study(storage, name)
    final = read_study(storage, f"{name}/final")
    test = read_study(storage, f"{name}/test")
    if search is None or final is None or test is None:
        return None
    return SearchRecords(search, final, test)
