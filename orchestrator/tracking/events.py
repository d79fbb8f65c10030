"""Events: what an MLflow run has to contain, in the form that the outbox stores."""

import getpass
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Kind = Literal["search", "trial", "adaptation"]

_BATCH = 1000  # the most metrics, parameters and tags together that MLflow takes in one request


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
    time: float  # of the metrics, and of the end if there is a status that ends it
    start: float | None = None  # of a run that has to be made; `time` if None
    status: str | None = None
    step: int = 0
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    artifacts: tuple[str, ...] = ()


def event_of(data: Mapping[str, Any]) -> RunEvent:
    """The event that a line of an outbox has; raises ValueError if it is none of this version."""
    wrong = [f"unknown {name}" for name in data if name not in _FITS]
    wrong += [name for name, fits in _FITS.items() if name in data and not fits(data[name])]
    try:
        if not wrong:
            return RunEvent(**data)
    except TypeError as error:  # a field that is missing
        raise ValueError(str(error)) from None
    raise ValueError(f"not as this version has them: {', '.join(wrong)}")


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
    """Events of one run each, in their order, as many together as MLflow takes in one batch.

    The runs come in the order in which they first occur, so that a parent is before its children.
    """
    batches: dict[str, list[list[RunEvent]]] = {}
    for event in events:
        own = batches.setdefault(event.key, [[]])
        if sum(map(_size, (*own[-1], event))) > _BATCH:
            own.append([])
        own[-1].append(event)
    return [batch for own in batches.values() for batch in own if batch]


def _size(event: RunEvent) -> int:
    return len(event.metrics) + len(event.params) + len(event.tags)


def common_tags(event: RunEvent) -> dict[str, str]:
    """Tags that every run has, whatever happens to it."""
    return {
        "fewtune.search": event.search,
        "fewtune.kind": event.kind,
        "fewtune.key": event.key,
        "mlflow.user": _user(),
        "mlflow.source.name": "fewtune",
        "mlflow.source.type": "LOCAL",
    }


def clean(name: str) -> str:
    """`name` as MLflow accepts it for a metric or parameter; other characters become `_<hex>`."""
    name = re.sub(r"[^\w\-. :/]", lambda match: f"_{ord(match[0]):x}", name)
    return "/".join(part for part in name.split("/") if part not in ("", ".", ".."))[:250]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user id without a name
        return "unknown"
