"""What was found about one thing that a search needs."""

from dataclasses import dataclass
from typing import Literal

from orchestrator.config.passwords import redacted

Status = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """status: a problem would stop a search. text and remedy: without passwords.

    place: where it was found, `driver` or `worker`.
    """

    what: str
    status: Status
    text: str
    remedy: str = ""
    place: str = "driver"


def ok(what: str, text: str) -> Finding:
    """A finding that is as it should be."""
    return Finding(what, "ok", redacted(text))


def warning(what: str, text: str, remedy: str) -> Finding:
    """A finding that makes a search slow or its result poor."""
    return Finding(what, "warning", redacted(text), redacted(remedy))


def problem(what: str, text: str, remedy: str) -> Finding:
    """A finding that would stop a search."""
    return Finding(what, "problem", redacted(text), redacted(remedy))
