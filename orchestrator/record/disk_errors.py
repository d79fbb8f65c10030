"""Error messages for a full disk or a place without write permission, each with a remedy."""

import errno
import os
from pathlib import Path

from fewshot.errors.disk import DiskProblem, disk_problem
from fewshot.errors.inputs import FewtuneError
from orchestrator.config.passwords import redacted


def disk_error(error: BaseException, home: Path) -> FewtuneError | None:
    """The message for an error of the disk; None for any other error.

    home: the path that the message names if the error does not name a file.
    """
    problem = disk_problem(error)
    if problem is None and isinstance(error, FileNotFoundError):  # e.g. a new folder in /proc
        path = str(error.filename or "")
        problem = DiskProblem(errno.ENOENT, path) if _related(path, home) else None
    if problem is None:
        return None
    path = problem.path or redacted(os.environ.get("FEWTUNE_STORAGE", "")) or str(home)
    if problem.no_space:
        remedy = (
            "Free some space there, then run the command again; add `--resume` to continue a "
            "search."
        )
        return FewtuneError(f"{path} can't be written: {problem.reason}. {remedy}")
    remedy = "Give this user write permission, or choose a different place: `--home DIR`."
    return FewtuneError(f"{path} can't be used: {problem.reason}. {remedy}")


def _related(path: str, home: Path) -> bool:
    """Whether the path is inside the home, or the home inside the path."""
    return bool(path) and (home.is_relative_to(path) or Path(path).is_relative_to(home))
