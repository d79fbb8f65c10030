"""Faults of what the user gave: collected, then shown all at once.

FewtuneError
└── InputError      what the user gave can't be used; carries every fault found
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ErrorDetail:
    """One thing wrong with the input: where it is, what was found there, and what to do."""

    path: str
    rule: str
    found: Any = None
    remedy: str = ""

    def __str__(self) -> str:
        found = "" if self.found is None else f" Found {self.found!r}."
        remedy = f" {self.remedy}" if self.remedy else ""
        return f"{self.path}: {self.rule}{found}{remedy}"


class FewtuneError(Exception):
    """Base of every error that fewtune raises on purpose."""


class InputError(FewtuneError):
    """What the user gave can't be used. `faults` has every fault that was found."""

    def __init__(self, details: Iterable[ErrorDetail]) -> None:
        self.details = tuple(details)
        super().__init__("\n".join(str(input_error) for input_error in self.details))

    # Exceptions are rebuilt from `args` on the far side of a process boundary.
    def __reduce__(self) -> tuple[type["InputError"], tuple[tuple[ErrorDetail, ...]]]:
        return type(self), (self.details,)


def input_error(path: str, rule: str, found: Any = None, remedy: str = "") -> InputError:
    """An `InputError` with a single fault."""
    return InputError([ErrorDetail(path, rule, found, remedy)])
