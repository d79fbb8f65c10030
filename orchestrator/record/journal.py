"""Optuna's journal, in a file that a single process writes.

Optuna's own backend lets many processes write. So for each of a trial's dozen operations it takes a
lock, opens the file, forces it to the disk, and opens it again to see what others have written.
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
    """The storage at `path`. Nobody else may write to the file while it is open; all may read it.

    Laws:
    - what was written survives the death of the process at once, that of the machine after `sync`;
    - the file is what Optuna's own backend would have written, but for the locks.

    Raises FewtuneError, with the number of the line, where there is one that can't be read.
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
    """The journal at `path`, which another process may be writing; raises as `Journal`."""
    storage = JournalStorage.__new__(JournalStorage)
    _replay(storage, _Numbered(str(path)))
    return storage


def _replay(storage: JournalStorage, file: "_Numbered") -> None:
    """Have Optuna read the file into the storage that is to be."""
    try:
        JournalStorage.__init__(storage, file)
    except OSError:
        raise
    except Exception as error:  # whatever Optuna makes of a line that it has not written
        path, line = file.path, file.line
        before = f"head -n {line - 1} {shlex.quote(path)} > {shlex.quote(path + '.new')}"
        raise FewtuneError(
            f"Line {line} of {path} can't be read ({type(error).__name__}: {error}). Restore the "
            f"file from a copy; or keep what is before that line, by `{before} && mv "
            f"{shlex.quote(path + '.new')} {shlex.quote(path)}`, and go on by --resume: what was "
            "recorded after it is done again."
        ) from error


class _Numbered(JournalFileBackend):
    """Knows which line is being read, or made use of."""

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
        self._unread += map(json.loads, lines)  # what a reader of the file would get
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
    """Cut off what a crash of the machine left half written: what comes after it would be lost."""
    with path.open("rb+") as file:
        content = file.read()
        end = content.rfind(b"\n") + 1
        last = content.rfind(b"\n", 0, end - 1) + 1 if end else 0
        if not _is_json(content[last:end]):  # its end was written, and what is before it was not
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
