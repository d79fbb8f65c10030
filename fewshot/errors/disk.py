"""What the operating system refuses to whoever writes, however the error came to be wrapped.

A full disk comes as an OSError from Python, as text from safetensors, as a database's own error
from SQLite, and any of these inside another from Optuna, SQLAlchemy or Ray.
"""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_ACCESS = {errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR}
# What other libraries say, in place of the number.
_SAID = {
    "no space left on device": errno.ENOSPC,
    "disk quota exceeded": errno.EDQUOT,
    "read-only file system": errno.EROFS,
    "database or disk is full": errno.ENOSPC,
    "attempt to write a readonly database": errno.EROFS,
    "disk i/o error": errno.EIO,
}


@dataclass(frozen=True)
class DiskProblem:
    """errno: why; path: of what, None if the error does not say."""

    errno: int
    path: str | None

    @property
    def no_space(self) -> bool:
        """Whether space is what was lacking, and not the right to write."""
        return self.errno in _NO_SPACE

    @property
    def reason(self) -> str:
        """In the words of the operating system."""
        return os.strerror(self.errno)


def disk_problem(error: BaseException) -> DiskProblem | None:
    """What was refused, if that is what the error, or one that led to it, is about."""
    found = [refused for each in _chain(error) if (refused := _refused(each))]
    return next((refused for refused in found if refused.path), found[0] if found else None)


@contextmanager
def naming_path(path: Path) -> Iterator[None]:
    """Errors of writing to an open file, which do not say to which, are given its path."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and all that led to it; what Ray wraps is its `cause`."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop(0)
        if isinstance(each, BaseException) and id(each) not in seen:
            seen.add(id(each))
            yield each
            waiting += [getattr(each, "cause", None), each.__cause__, each.__context__]


def _refused(error: BaseException) -> DiskProblem | None:
    if isinstance(error, OSError) and error.errno is not None:
        path = error.filename
        known = error.errno in _NO_SPACE or (error.errno in _NO_ACCESS and path is not None)
        return DiskProblem(error.errno, None if path is None else str(path)) if known else None
    text = str(error)
    number = re.search(r"\(os error (\d+)\)", text)
    path = re.search(r"at path \"([^\"]+)\"", text)
    if number and int(number[1]) in _NO_SPACE | _NO_ACCESS:
        return DiskProblem(int(number[1]), path[1] if path else None)
    return next((DiskProblem(n, None) for said, n in _SAID.items() if said in text.lower()), None)
