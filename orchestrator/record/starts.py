"""Facts about the processes that ran a search: when each started, and with which versions."""

import platform
import time
from importlib.metadata import version
from typing import Any, NamedTuple

from orchestrator.record.studies.study import StudyRecord

_STARTS, _VERSIONS, _SENDING = "starts", "versions", "sending"
_PACKAGES = ("fewtune", "torch", "optuna", "botorch", "ray", "mlflow", "transformers", "numpy")


class Start(NamedTuple):
    """One process of a search: it began at a time, and had its workers ready at another.

    Both are in seconds since 1970. In between it read the data and started the workers.
    """

    began: float
    ready: float


class Sending(NamedTuple):
    """The time in which runs were sent to MLflow until a search ended, and the runs left then."""

    seconds: float
    runs_left: int


def note_start(record: StudyRecord, began: float) -> None:
    """Note that the process that began at `began` has its workers ready now."""
    record.note(_STARTS, [*record.notes.get(_STARTS, ()), [began, time.time()]])


def starts_of(record: StudyRecord) -> list[Start]:
    """The processes of the search, in order; empty for searches of earlier versions."""
    return [Start(*pair) for pair in record.notes.get(_STARTS, ())]


def note_sending(record: StudyRecord, seconds: float, runs_left: int) -> None:
    """Note that this process, at its end, has sent runs to MLflow for `seconds`."""
    before = sending_of(record)
    record.note(_SENDING, [seconds + (before.seconds if before else 0.0), runs_left])


def sending_of(record: StudyRecord) -> Sending | None:
    """What `note_sending` noted; None for searches of earlier versions, or that have not ended."""
    noted = record.notes.get(_SENDING)
    return None if noted is None else Sending(*noted)


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that decide the result of a search."""
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


def note_versions(record: StudyRecord) -> None:
    """Note the versions with which this process runs the search."""
    record.note(_VERSIONS, versions())


def versions_of(record: StudyRecord) -> dict[str, Any]:
    """The versions with which the search ran last; empty for searches of earlier versions."""
    return dict(record.notes.get(_VERSIONS, {}))
