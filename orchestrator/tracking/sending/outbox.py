"""The outbox: a durable queue of events that are sent to MLflow."""

import json
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fewshot.errors.disk import naming_path

log = logging.getLogger(__name__)

FILE = "outbox.jsonl"
SYNC_SECONDS = 1.0


class Pending(NamedTuple):
    """Events that have not been sent, in order, and the file position after them."""

    events: list[dict[str, Any]]
    next: int


class Outbox:
    """A file of events in the order in which they were recorded; one process at a time opens it.

    Laws:
    - an appended event survives a crash of the process;
    - each id is stored once: appending it again does nothing, also after a restart;
    - `next` returns events in order, each at least once; it repeats an event whose `sent` was lost;
    - the file is never shortened, so that `rewind` can send everything again;
    - a line that is not an event does not block the others: it is moved to a separate file.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / FILE
        self._mark = folder / "outbox.sent"
        self._aside = folder / "outbox.rejected.jsonl"
        self.rejected = 0  # number of lines that this process has set aside
        self._changed = threading.Condition()
        self._ends: dict[str, int] = {}  # id -> file position of the end of its line
        self._runs: dict[str, int] = {}  # key of a run -> the same for the last event of the run
        self._counts: Counter[str] = Counter()
        lines = read_lines(self._path)
        for event, end in lines:
            if _is_event(event):
                self._add(event, end)
        self._sent = self._read_mark({end for _, end in lines})
        self._n_sent = sum(end <= self._sent for end in self._ends.values())
        self._n_counted = 0  # events of the last `next` that `count_sent` has counted
        self._n_runs_counted = 0  # runs to which these events belong
        self._file = self._path.open("ab")
        self._size = self._file.tell()
        self._synced = time.monotonic()
        self.closed = False
        self._awaited = False  # whether `drained` has been called
        self._held_until = 0.0

    def append(self, event: Mapping[str, Any]) -> bool:
        """Record `event`, which must have an "id"; returns False if that id exists already."""
        line = json.dumps(event, separators=(",", ":")).encode() + b"\n"
        with self._changed:
            if event["id"] in self._ends:
                return False
            with naming_path(self._path):
                self._file.write(line)
                self._file.flush()
            self._size += len(line)
            self._add(event, self._size)
            if time.monotonic() - self._synced > SYNC_SECONDS:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
            self._changed.notify_all()
        return True

    def count(self, group: str) -> int:
        """The number of ids of the form `group/<text without a slash>`."""
        with self._changed:
            return self._counts[group]

    def ids(self, prefix: str) -> list[str]:
        """Ids that start with `prefix`, in order."""
        with self._changed:
            return [id for id in self._ends if id.startswith(prefix)]

    def backlog(self) -> int:
        """The number of events that have not been sent yet."""
        with self._changed:
            return len(self._ends) - self._n_sent - self._n_counted

    def runs_left(self) -> int:
        """The number of runs with events that have not been sent yet; runs have a "key"."""
        with self._changed:
            left = sum(end > self._sent for end in self._runs.values())
            return max(0, left - self._n_runs_counted)

    @property
    def awaited(self) -> bool:
        """Whether a process waits until all events are sent."""
        return self._awaited

    def next(self, timeout: float, at_most: int = 1) -> Pending | None:
        """The first `at_most` unsent events; waits for one.

        Returns None after `timeout` seconds without an event, or when the outbox is closed. While
        `hold` is in force, it waits longer.
        """
        with self._changed:
            while (held := self._held_until - time.monotonic()) > 0 and not self.closed:
                self._changed.wait(held)
            self._changed.wait_for(lambda: self.closed or self._sent < self._size, timeout)
            if self.closed or self._sent >= self._size:
                return None
            start, size = self._sent, self._size
            self._n_counted = self._n_runs_counted = 0
        events: list[dict[str, Any]] = []
        with self._path.open("rb") as file:
            file.seek(start)
            while file.tell() < size and len(events) < at_most:
                line = file.readline()
                event = _parse(line)
                if _is_event(event):
                    events.append(event)
                else:
                    self.set_aside(line, "it is not an event")
            end = file.tell()
        if events:
            return Pending(events, end)
        with self._changed:  # no readable line is left
            self._sent = size
        return None

    def set_aside(self, line: bytes, reason: str) -> None:
        """Copy an unusable line to the file of rejected lines; logs each line once."""
        if self._aside.exists() and line in self._aside.read_bytes().splitlines(keepends=True):
            return
        with self._aside.open("ab") as file:
            file.write(line)
        self.rejected += 1
        log.error("outbox_rejects reason=%s kept_in=%s", reason, self._aside)

    def count_sent(self, n: int) -> None:
        """Count `n` more events, all those of a run, as sent: `next` repeats them until `sent`.

        This is for `backlog` and `runs_left` only.
        """
        with self._changed:
            self._n_counted += n
            self._n_runs_counted += 1

    def sent(self, pending: Pending) -> None:
        """Mark all of `pending` as sent, so that `next` does not return them again."""
        with self._changed:
            self._sent = pending.next
            self._n_sent += len(pending.events)
            self._n_counted = self._n_runs_counted = 0
            _replace(self._mark, str(self._sent))
            self._changed.notify_all()

    def rewind(self) -> bool:
        """Mark every event as unsent; returns False if none was sent."""
        with self._changed:
            if self._sent == 0:
                return False
            self._sent = self._n_sent = self._n_counted = self._n_runs_counted = 0
            _replace(self._mark, "0")
            return True

    def hold(self, seconds: float) -> None:
        """Let `next` wait for `seconds`, but at most until `release` or `drained` is called."""
        with self._changed:
            self._held_until = time.monotonic() + seconds

    def release(self) -> None:
        """End a `hold`."""
        if self._held_until:
            with self._changed:
                self._held_until = 0.0
                self._changed.notify_all()

    def drained(self, timeout: float) -> bool:
        """Wait until all events are sent; returns False after `timeout` seconds."""
        with self._changed:
            self._awaited, self._held_until = True, 0.0
            self._changed.notify_all()
            return self._changed.wait_for(lambda: len(self._ends) == self._n_sent, timeout)

    def pause(self, seconds: float) -> None:
        """Sleep for `seconds`, but at most until `drained` or `close` is called."""
        with self._changed:
            self._changed.wait_for(lambda: self._awaited or self.closed, seconds)

    def close(self) -> None:
        """Flush the file to disk; waiting calls of `next` return None."""
        with self._changed:
            if self.closed:
                return
            self.closed = True
            self._changed.notify_all()
            with naming_path(self._path), self._file:
                os.fsync(self._file.fileno())

    def wait_closed(self, timeout: float) -> bool:
        """Wait until the outbox is closed; returns False after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self.closed, timeout)

    def _add(self, event: Mapping[str, Any], end: int) -> None:
        id: str = event["id"]
        self._ends[id] = end
        self._runs[str(event.get("key", ""))] = end
        self._counts[id.rpartition("/")[0]] += 1

    def _read_mark(self, ends: set[int]) -> int:
        """The file position of the first unsent event; 0 if the mark is not the end of a line."""
        try:
            mark = int(self._mark.read_text())
        except (FileNotFoundError, ValueError):
            return 0
        return mark if mark in ends else 0


def read_lines(path: Path) -> list[tuple[Any, int]]:
    """(value, end position) of each JSON line of `path`; the value is None if it is not JSON.

    Cuts off an incomplete last line, which a crash may leave.
    """
    if not path.exists():
        return []
    lines: list[tuple[Any, int]] = []
    end = 0
    with path.open("rb+") as file:
        for line in file:
            if not line.endswith(b"\n"):
                log.warning("cut_torn_line path=%s at=%d", path, end)
                file.truncate(end)
                break
            end += len(line)
            lines.append((_parse(line), end))
    return lines


def _parse(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:  # after a power failure, blocks of the file may be missing
        return None


def _is_event(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("id"), str)


def _replace(path: Path, text: str) -> None:
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    new.replace(path)
