"""Exceptions for invalid user input, which report all errors at once.

FewtuneError
└── InputError      the user's input is invalid; carries a detail for each error found
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any


@dataclass(frozen=True, slots=True)
class ErrorDetail:
    """One error in the input: its place, the violated rule, the value found, and a remedy."""

    path: str
    rule: str
    found: Any = None
    remedy: str = ""

    def __str__(self) -> str:
        found = "" if self.found is None else f" Found {self.found!r}."
        remedy = f" {self.remedy}" if self.remedy else ""
        return f"{self.path}: {self.rule}{found}{remedy}"


class FewtuneError(Exception):
    """Base class of all errors that fewtune raises on purpose."""


class InputError(FewtuneError):
    """The user's input is invalid. `details` holds all errors that were found."""

    def __init__(self, details: Iterable[ErrorDetail]) -> None:
        self.details = tuple(details)
        super().__init__("\n".join(str(input_error) for input_error in self.details))

    # Unpickling in another process would call the constructor with `args`, which do not fit here.
    def __reduce__(self) -> tuple[type["InputError"], tuple[tuple[ErrorDetail, ...]]]:
        return type(self), (self.details,)


def input_error(path: str, rule: str, found: Any = None, remedy: str = "") -> InputError:
    """An `InputError` with a single detail."""
    return InputError([ErrorDetail(path, rule, found, remedy)])


def check_sizes(
    part: str, /, *, least: int = 1, lists: Collection[str] = (), **sizes: object
) -> None:
    """Raises InputError unless all sizes are whole numbers of at least `least`.

    part: the section of the config whose options these are. lists: the names of those that are
    lists of such numbers, which may be empty.
    """
    details = []
    for name, size in sizes.items():
        is_list = name in lists
        every = size if is_list and isinstance(size, list | tuple) else [size]
        if any(type(n) is not int or n < least for n in every):
            what = "a list of whole numbers" if is_list else "a whole number"
            details.append(
                ErrorDetail(f"{part}.{name}", f"must be {what} of at least {least}.", size)
            )
    if details:
        raise InputError(details)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The text "Did you mean `x`? " for the known name nearest to `name`, or an empty text."""
    nearest = get_close_matches(name, list(known), n=1)
    return f"Did you mean `{nearest[0]}`? " if nearest else ""
