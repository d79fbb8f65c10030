"""Events: the data of MLflow runs in the form that the outbox stores."""

import getpass
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any, Literal, get_args

Kind = Literal["search", "trial", "adaptation"]

_BATCH = 1000  # MLflow accepts at most this many metrics, parameters and tags in one request


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEvent:
    """Data for one MLflow run. The run is created if none with this key exists."""

    id: str
    search: str
    experiment: str
    key: str  # the search's name, then "/<trial>", then "/<split>/<task>"
    kind: Kind
    name: str
    parent: str | None = None
    time: float  # time of the metrics, and of the run's end if `status` ends it
    start: float | None = None  # start time of a new run; None means `time`
    status: str | None = None
    step: int = 0
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    artifacts: tuple[str, ...] = ()


def event_of(data: Mapping[str, Any]) -> RunEvent:
    """The event in a line of an outbox; raises ValueError if the format is not this version's."""
    wrong = [f"unknown {name}" for name in data if name not in _FITS]
    wrong += [name for name, fits in _FITS.items() if name in data and not fits(data[name])]
    try:
        if not wrong:
            return RunEvent(**data)
    except TypeError as error:  # a missing field
        raise ValueError(str(error)) from None
    raise ValueError(f"fields that do not fit this version: {', '.join(wrong)}")


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _number(value: Any) -> bool:
    return isinstance(value, int | float)


def _none_or(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or fits(value)


def _names_of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(fits, value.values()))


_FITS: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("id", "search", "experiment", "key", "name"), _text),
    **dict.fromkeys(("parent", "status"), _none_or(_text)),
    **dict.fromkeys(("params", "tags"), _names_of(_text)),
    "kind": lambda value: value in get_args(Kind),
    "time": _number,
    "start": _none_or(_number),
    "step": lambda value: isinstance(value, int),
    "metrics": _names_of(_number),
    "artifacts": lambda value: isinstance(value, list | tuple) and all(map(_text, value)),
}


def by_run(events: Iterable[RunEvent]) -> list[list[RunEvent]]:
    """Group events into batches of one run each, in order; each batch fits into one request.

    The runs are in the order of their first event, so a parent comes before its children.
    """
    batches: dict[str, list[list[RunEvent]]] = {}
    for event in events:
        of_run = batches.setdefault(event.key, [[]])
        if sum(map(_size, (*of_run[-1], event))) > _BATCH:
            of_run.append([])
        of_run[-1].append(event)
    return [batch for of_run in batches.values() for batch in of_run if batch]


def _size(event: RunEvent) -> int:
    return len(event.metrics) + len(event.params) + len(event.tags)


def common_tags(event: RunEvent) -> dict[str, str]:
    """Tags that every run has, in every state."""
    return {
        "fewtune.search": event.search,
        "fewtune.kind": event.kind,
        "fewtune.key": event.key,
        "mlflow.user": _user(),
        "mlflow.source.name": "fewtune",
        "mlflow.source.type": "LOCAL",
    }


@lru_cache(maxsize=4096)  # the events of a search have few names
def clean(name: str) -> str:
    """A name that MLflow accepts for a metric or parameter; other characters become `_<hex>`."""
    name = re.sub(r"[^\w\-. :/]", lambda match: f"_{ord(match[0]):x}", name)
    return "/".join(part for part in name.split("/") if part not in ("", ".", ".."))[:250]


@cache
def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container, a user id may have no name
        return "unknown"
