"""Optuna's journal, in a file that a single process writes.

Optuna's own backend lets many processes write. So for each of a trial's dozen operations it takes a
lock, opens the file, forces it to the disk, and opens it again to see what others have written.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend


class Journal(JournalStorage):
    """The storage at `path`. Nobody else may write to the file while it is open; all may read it.

    Laws:
    - what was written survives the death of the process at once, that of the machine after `sync`;
    - the file is what Optuna's own backend would have written, but for the locks.
    """

    def __init__(self, path: Path) -> None:
        self._file = _File(path)
        super().__init__(self._file)

    def sync(self) -> None:
        self._file.sync()

    def close(self) -> None:
        self._file.close()


class _File(JournalFileBackend):
    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        _drop_torn_line(path)
        self._end = path.open("ab")
        self._unread: list[dict[str, Any]] = []
        self._synced = True

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = [json.dumps(log, separators=(",", ":")) for log in logs]
        self._end.write("".join(line + "\n" for line in lines).encode())
        self._end.flush()
        self._unread += map(json.loads, lines)  # what a reader of the file would get
        self._synced = False

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:  # type: ignore[override]
        unread, self._unread = self._unread, []
        return super().read_logs(0) if log_number_from == 0 else unread

    def sync(self) -> None:
        if not self._synced:
            os.fsync(self._end.fileno())
            self._synced = True

    def close(self) -> None:
        self.sync()
        self._end.close()


def _drop_torn_line(path: Path) -> None:
    """Cut off what a crash of the machine left half written: what comes after it would be lost."""
    with path.open("rb+") as file:
        content = file.read()
        if not content.endswith(b"\n"):
            file.truncate(content.rfind(b"\n") + 1)
