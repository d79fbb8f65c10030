"""Optuna's journal storage for a single writing process.

Optuna's own backend supports many writers. So for each of the dozen operations of a trial it takes
a lock, opens the file, calls fsync, and opens the file again to read what others have written.
"""

import json
import logging
import os
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from fewshot.errors.disk import naming_path
from fewshot.errors.inputs import FewtuneError

log = logging.getLogger(__name__)


class Journal(JournalStorage):
    """The storage at `path`. No other process may write to the file while it is open; all may read.

    Laws:
    - written data survives a crash of the process at once, and a crash of the machine after `sync`;
    - the file has the same content as with Optuna's own backend; only the locks are missing.

    Raises FewtuneError with the line number if a line can't be read.
    """

    def __init__(self, path: Path) -> None:
        self._file = _File(path)
        try:
            _replay(self, self._file)
        except BaseException:
            self._file.close()
            raise

    def sync(self) -> None:
        self._file.sync()

    def close(self) -> None:
        self._file.close()


def open_for_reading(path: Path) -> JournalStorage:
    """The journal at `path`, to which another process may write; raises like `Journal`."""
    storage = JournalStorage.__new__(JournalStorage)
    _replay(storage, _Numbered(str(path)))
    return storage


def _replay(storage: JournalStorage, file: "_Numbered") -> None:
    """Initialise the storage from the file."""
    try:
        JournalStorage.__init__(storage, file)
    except OSError:
        raise
    except Exception as error:  # Optuna raises various errors on a damaged line
        path, line = file.path, file.line
        before = f"head -n {line - 1} {shlex.quote(path)} > {shlex.quote(path + '.new')}"
        raise FewtuneError(
            f"Line {line} of {path} can't be read ({type(error).__name__}: {error}). Restore the "
            f"file from a backup. Or keep the lines before it with `{before} && mv "
            f"{shlex.quote(path + '.new')} {shlex.quote(path)}` and continue with `--resume`; "
            "work recorded after that line is repeated."
        ) from error


class _Numbered(JournalFileBackend):
    """Keeps the number of the line that is being read or applied."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path, self.line = path, 0

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        self.line = log_number_from + 1
        for log in super().read_logs(log_number_from):
            yield log
            self.line += 1


class _File(_Numbered):
    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        _drop_torn_line(path)
        self._place, self._end = path, path.open("ab")
        self._unread: list[dict[str, Any]] = []
        self._synced = True

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = [json.dumps(log, separators=(",", ":")) for log in logs]
        with naming_path(self._place):
            self._end.write("".join(line + "\n" for line in lines).encode())
            self._end.flush()
        self._unread += map(json.loads, lines)  # the same values as when read from the file
        self._synced = False

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:  # type: ignore[override]
        unread, self._unread = self._unread, []
        return super().read_logs(0) if log_number_from == 0 else unread

    def sync(self) -> None:
        if not self._synced:
            with naming_path(self._place):
                os.fsync(self._end.fileno())
            self._synced = True

    def close(self) -> None:
        try:
            self.sync()
        finally:
            with naming_path(self._place):
                self._end.close()


def _drop_torn_line(path: Path) -> None:
    """Cut off a half-written last line that a crash left: lines appended to it would be lost."""
    with path.open("rb+") as file:
        content = file.read()
        end = content.rfind(b"\n") + 1
        last = content.rfind(b"\n", 0, end - 1) + 1 if end else 0
        if not _is_json(content[last:end]):  # its end reached the disk, but not all of it
            end = last
        if end < len(content):
            log.warning("cut_torn_line path=%s at=%d", path, end)
            file.truncate(end)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
