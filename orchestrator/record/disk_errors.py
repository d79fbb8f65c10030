"""A full disk or a place that may not be written to, in a sentence with its remedy."""

import errno
import os
from pathlib import Path

from fewshot.errors.disk import DiskProblem, disk_problem
from fewshot.errors.inputs import FewtuneError
from orchestrator.config.passwords import redacted


def disk_error(error: BaseException, home: Path) -> FewtuneError | None:
    """What to say of an error that is about the disk; None of any other.

    home: what is named where the error does not say which file it was.
    """
    found = disk_problem(error)
    if found is None and isinstance(error, FileNotFoundError):  # as of a new folder in /proc
        path = str(error.filename or "")
        found = DiskProblem(errno.ENOENT, path) if _related(path, home) else None
    if found is None:
        return None
    path = found.path or redacted(os.environ.get("FEWTUNE_STORAGE", "")) or str(home)
    if found.no_space:
        remedy = "Free some space there, then run the command again; a search goes on by --resume."
        return FewtuneError(f"{path} can't be written: {found.reason}. {remedy}")
    remedy = "Give this user the right to, or name another place, as by `--home DIR`."
    return FewtuneError(f"{path} can't be used: {found.reason}. {remedy}")


def _related(path: str, home: Path) -> bool:
    """Whether the path is in the home, or the home in it."""
    return bool(path) and (home.is_relative_to(path) or Path(path).is_relative_to(home))
