"""Describes an exception of a user's part in one line, with a short traceback."""

import sysconfig
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from traceback import FrameSummary

from fewshot.errors.inputs import FewtuneError, input_error

_LINE = 300  # most characters of a message; only its first line is used
_KEPT = 6000  # most characters of a traceback (MLflow allows 8000); the middle is cut out
_BEGINNING = 1500

_ROOT = Path(__file__).parents[2]
_OURS = tuple(str(_ROOT / name) for name in ("fewshot", "trials", "orchestrator"))
_INSTALLED = tuple(sysconfig.get_path(name) for name in ("purelib", "platlib"))
_PYTHONS = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib"))
_LIBRARIES = (
    *("PIL", "matplotlib", "numpy", "pandas", "pyarrow", "ray", "safetensors", "scipy"),
    *("tokenizers", "torch", "transformers"),
)


@dataclass(frozen=True, slots=True)
class Failure:
    """An exception as text.

    message: one line, the same for failures of the same kind. traceback: a few kilobytes.
    """

    message: str
    traceback: str


@contextmanager
def as_input_error(path: str, rule: str) -> Iterator[None]:
    """Turn any exception of the user's part at `path` into an InputError of one sentence."""
    try:
        yield
    except FewtuneError:
        raise
    except Exception as error:
        raise input_error(path, f"{rule}: {failure_of(error).message}.") from error


def failure_of(error: BaseException) -> Failure:
    """The message and the traceback of `error`."""
    first = next(iter(str(error).strip().splitlines()), "")[:_LINE]
    message = type(error).__name__ + (f": {first}" if first else "")
    return Failure(f"{message}{place_of(error)}", _shortened("".join(_lines(error)).strip()))


def _lines(error: BaseException) -> list[str]:
    return traceback.format_exception(type(error), error, error.__traceback__)


def _shortened(text: str) -> str:
    if len(text) <= _KEPT:
        return text
    return f"{text[:_BEGINNING]}\n  ...\n{text[_BEGINNING - _KEPT :]}"


def place_of(error: BaseException) -> str:
    """Where to look, in parentheses: the last line in the user's code, else in other packages, else
    in fewtune.
    """
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename[:1] != "<"]
    foreign = [frame for frame in frames if not _within(frame, _OURS)]
    installed = [frame for frame in foreign if _within(frame, _INSTALLED)]
    libraries = [f"{folder}/{name}" for folder in _INSTALLED for name in _LIBRARIES]
    for candidates in (
        [frame for frame in foreign if not _within(frame, (*_INSTALLED, *_PYTHONS))],
        [frame for frame in installed if not _within(frame, libraries)],
        [frame for frame in frames if _within(frame, _OURS)],
        frames,
    ):
        if candidates:
            last = candidates[-1]
            return f" ({last.filename}:{last.lineno}, in {last.name})"
    return ""


def _within(frame: FrameSummary, folders: Sequence[str]) -> bool:
    return any(frame.filename.startswith(f"{folder}/") for folder in folders)
