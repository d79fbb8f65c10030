"""The events that the lines of an outbox have, if a version of fewtune has written them."""

from collections.abc import Callable, Mapping
from typing import Any, get_args

from orchestrator.recording import Kind, RunEvent


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
