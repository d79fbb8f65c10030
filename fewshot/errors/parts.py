"""What an exception says: one line with the place in the user's code, and a traceback to keep."""

import sysconfig
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from traceback import FrameSummary

from fewshot.errors.inputs import FewtuneError, input_error

_LINE = 300  # characters of a message, of which the first line is told
_KEPT = 6000  # characters of a traceback, which MLflow takes 8000 of: its beginning and its end
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
    """message: one line, the same for failures of the same kind; traceback: a few kilobytes."""

    message: str
    traceback: str


@contextmanager
def as_input_error(path: str, rule: str) -> Iterator[None]:
    """Tell what a user's part at `path` raises in one sentence: as an InputError."""
    try:
        yield
    except FewtuneError:
        raise
    except Exception as error:
        raise input_error(path, f"{rule}: {failure_of(error).message}.") from error


def failure_of(error: BaseException) -> Failure:
    """What is told of `error`, and kept."""
    first = next(iter(str(error).strip().splitlines()), "")[:_LINE]
    said = type(error).__name__ + (f": {first}" if first else "")
    return Failure(f"{said}{_place(error)}", _shortened("".join(_lines(error)).strip()))


def _lines(error: BaseException) -> list[str]:
    return traceback.format_exception(type(error), error, error.__traceback__)


def _shortened(text: str) -> str:
    if len(text) <= _KEPT:
        return text
    return f"{text[:_BEGINNING]}\n  ...\n{text[_BEGINNING - _KEPT :]}"


def _place(error: BaseException) -> str:
    """Where to look: the last line that is the user's, or else the last one that is ours."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename[:1] != "<"]
    foreign = [frame for frame in frames if not _within(frame, _OURS)]
    installed = [frame for frame in foreign if _within(frame, _INSTALLED)]
    libraries = [f"{folder}/{name}" for folder in _INSTALLED for name in _LIBRARIES]
    for found in (
        [frame for frame in foreign if not _within(frame, (*_INSTALLED, *_PYTHONS))],
        [frame for frame in installed if not _within(frame, libraries)],
        [frame for frame in frames if _within(frame, _OURS)],
        frames,
    ):
        if found:
            return f" ({found[-1].filename}:{found[-1].lineno}, in {found[-1].name})"
    return ""


def _within(frame: FrameSummary, folders: Sequence[str]) -> bool:
    return any(frame.filename.startswith(f"{folder}/") for folder in folders)
