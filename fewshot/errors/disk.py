"""Recognises errors of writing to disk, however they are wrapped.

A full disk is an OSError in Python, a text in safetensors and PyTorch, and a database error in
SQLite. Optuna, SQLAlchemy or Ray may wrap any of these in their own exceptions.
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
# Messages, as regular expressions, of libraries that give no error number.
_MESSAGES = {
    "no space left on device": errno.ENOSPC,
    "disk quota exceeded": errno.EDQUOT,
    "read-only file system": errno.EROFS,
    "database or disk is full": errno.ENOSPC,
    "attempt to write a readonly database": errno.EROFS,
    "disk i/o error": errno.EIO,
    # `torch.save` and `numpy.save`; almost always a full disk.
    r"unexpected pos \d+ vs \d+": errno.ENOSPC,
    "basic_ios::clear: iostream error": errno.ENOSPC,
    r"\d+ requested and \d+ written": errno.ENOSPC,
}


@dataclass(frozen=True)
class DiskProblem:
    """A refused write. errno: the reason. path: the file, or None if the error does not name it."""

    errno: int
    path: str | None

    @property
    def no_space(self) -> bool:
        """Whether the disk is full, as opposed to write access being denied."""
        return self.errno in _NO_SPACE

    @property
    def of_machine(self) -> bool:
        """Whether the machine is the cause: a disk that is full, read-only or broken."""
        return self.no_space or self.errno in (errno.EROFS, errno.EIO)

    @property
    def reason(self) -> str:
        """The operating system's description of the error."""
        return os.strerror(self.errno)


def disk_problem(error: BaseException) -> DiskProblem | None:
    """The disk problem in the chain of causes of `error`, or None; one with a path is preferred."""
    problems = [problem for each in _chain(error) if (problem := _refused(each))]
    return next((problem for problem in problems if problem.path), next(iter(problems), None))


@contextmanager
def naming_path(path: Path) -> Iterator[None]:
    """Add `path` to errors of writing to an open file, which do not name the file."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and all its causes; Ray keeps the wrapped exception in `cause`."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop(0)
        if isinstance(each, BaseException) and id(each) not in seen:
            seen.add(id(each))
            yield each
            waiting += [getattr(each, "cause", None), each.__cause__, each.__context__]


def _refused(error: BaseException) -> DiskProblem | None:
    if full := re.search(r"No usable temporary directory found in \['([^']+)'", str(error)):
        return DiskProblem(errno.ENOSPC, full[1]) if os.access(full[1], os.W_OK) else None
    if isinstance(error, OSError) and error.errno is not None:
        path = error.filename
        known = error.errno in _NO_SPACE or (error.errno in _NO_ACCESS and path is not None)
        return DiskProblem(error.errno, None if path is None else str(path)) if known else None
    text = str(error)
    number = re.search(r"\(os error (\d+)\)", text)
    path = re.search(r"at path \"([^\"]+)\"", text)
    if number and int(number[1]) in _NO_SPACE | _NO_ACCESS:
        return DiskProblem(int(number[1]), path[1] if path else None)
    known_messages = (n for message, n in _MESSAGES.items() if re.search(message, text.lower()))
    return next((DiskProblem(n, None) for n in known_messages), None)
