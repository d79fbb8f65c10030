"""The base class of config sections, with shared types."""

import re
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    ValidationError,
    WrapValidator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from fewshot.errors.inputs import ErrorDetail, InputError


def section_error(*details: ErrorDetail) -> ValidationError:
    """The error of a section; the path of each detail is relative to the section."""
    return ValidationError.from_exception_data(
        "",
        [
            InitErrorDetails(
                type=PydanticCustomError("fault", "{rule}", {"rule": f.rule, "remedy": f.remedy}),
                loc=(f.path,) if f.path else (),
                input=f.found,
            )
            for f in details
        ],
    )


@contextmanager
def as_section_error() -> Iterator[None]:
    """Turn an InputError of code outside this package into the error of a section."""
    try:
        yield
    except InputError as error:
        raise section_error(*error.details) from error


def _name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", value) or ".." in value:
        rule = "must be 1 to 64 letters, digits, '.', '_' or '-', and begin with a letter or digit."
        raise section_error(ErrorDetail("", rule, value, "It is used as the name of a folder."))
    return value


def task_name_from(text: str) -> str:
    """A task name made from any text: letters, accents, digits of every script, '.', '_', '-'.

    Each run of other characters becomes '_', so two texts may get the same name.
    """
    composed = unicodedata.normalize("NFC", text)
    kept = "".join(
        c if c in "._-" or unicodedata.category(c)[0] in "LMN" else " " for c in composed
    )
    name = re.sub(" +", "_", kept)
    return name if name.strip(".") else "_" * max(1, len(name))


def _task_name(value: str) -> str:
    name = unicodedata.normalize("NFC", value)
    if (
        not 1 <= len(name) <= 64
        or task_name_from(name) != name
        or not name[0].isalnum()
        or ".." in name
    ):
        rule = "must be 1 to 64 letters, digits, '.', '_' or '-', and begin with a letter or digit."
        raise section_error(ErrorDetail("", rule, value))
    return name


def _cells(value: Any, usual: object) -> Any:
    """Check one value of a column, or a list of values."""
    if value == []:
        raise section_error(ErrorDetail("", "must not be empty.", value))
    listed = isinstance(value, list)
    details = [
        ErrorDetail(
            str(i) if listed else "",
            "must be text or a whole number.",
            cell,
            "Put quotes around words such as yes, no, on, off and null."
            if cell is None or isinstance(cell, bool)
            else "Put quotes around it.",
        )
        for i, cell in enumerate(value if listed else [value])
        if isinstance(cell, bool) or not isinstance(cell, str | int)
    ]
    if details:
        raise section_error(*details)
    return value


def listed(value: Any, usual: object) -> Any:
    if not isinstance(value, list):
        raise section_error(ErrorDetail("", "must be a list.", value, "Put it in brackets: [..]."))
    return _cells(value, usual)


Name = Annotated[str, AfterValidator(_name)]
TaskName = Annotated[str, AfterValidator(_task_name)]
Where = dict[str, Annotated[str | int | list[str | int], WrapValidator(_cells)]]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
