"""What is to be told to others, kept on disk until it has been told."""

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
    """Events that have not been sent, in order, and where the next one begins."""

    events: list[dict[str, Any]]
    next: int


class Outbox:
    """A file of events in the order in which they were recorded; one process at a time has it open.

    Laws:
    - an event that was appended survives the death of the process;
    - an id is kept once: appending it again, also after a restart, does nothing;
    - events are given in order, each at least once: one whose `sent` was lost is given again;
    - the file is never shortened, so that `rewind` can tell everything anew;
    - a line that is no event holds nobody up: it is set aside, in a file of its own.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / FILE
        self._mark = folder / "outbox.sent"
        self._aside = folder / "outbox.rejected.jsonl"
        self.rejected = 0  # lines that this process has set aside
        self._changed = threading.Condition()
        self._ends: dict[str, int] = {}  # id -> where its line ends
        self._counts: Counter[str] = Counter()
        lines = read_lines(self._path)
        for event, end in lines:
            if _is_event(event):
                self._add(event["id"], end)
        self._sent = self._read_mark({end for _, end in lines})
        self._n_sent = sum(end <= self._sent for end in self._ends.values())
        self._n_told = 0  # of those that `next` gave last
        self._file = self._path.open("ab")
        self._size = self._file.tell()
        self._synced = time.monotonic()
        self.closed = False
        self._awaited = False  # whether somebody waits for all to be sent

    def append(self, event: Mapping[str, Any]) -> bool:
        """Record `event`, which has an "id"; False if that id is there already."""
        line = json.dumps(event, separators=(",", ":")).encode() + b"\n"
        with self._changed:
            if event["id"] in self._ends:
                return False
            with naming_path(self._path):
                self._file.write(line)
                self._file.flush()
            self._size += len(line)
            self._add(event["id"], self._size)
            if time.monotonic() - self._synced > SYNC_SECONDS:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
            self._changed.notify_all()
        return True

    def count(self, group: str) -> int:
        """How many ids are `group/<something without a slash>`."""
        with self._changed:
            return self._counts[group]

    def ids(self, prefix: str) -> list[str]:
        """Ids that begin with `prefix`, in order."""
        with self._changed:
            return [id for id in self._ends if id.startswith(prefix)]

    def backlog(self) -> int:
        """Events that were not sent yet."""
        with self._changed:
            return len(self._ends) - self._n_sent - self._n_told

    def next(self, timeout: float, at_most: int = 1) -> Pending | None:
        """The first events not sent yet; None after `timeout` seconds without any, or if closed."""
        with self._changed:
            self._changed.wait_for(lambda: self.closed or self._sent < self._size, timeout)
            if self.closed or self._sent >= self._size:
                return None
            start, size = self._sent, self._size
            self._n_told = 0
        events: list[dict[str, Any]] = []
        with self._path.open("rb") as file:
            file.seek(start)
            while file.tell() < size and len(events) < at_most:
                line = file.readline()
                event = _parse(line)
                if _is_event(event):
                    events.append(event)
                else:
                    self.set_aside(line, "it is no event")
            end = file.tell()
        if events:
            return Pending(events, end)
        with self._changed:  # nothing readable is left
            self._sent = size
        return None

    def set_aside(self, line: bytes, reason: str) -> None:
        """Keep a line that nobody can make use of where people can look at it; say so once."""
        if self._aside.exists() and line in self._aside.read_bytes().splitlines(keepends=True):
            return
        with self._aside.open("ab") as file:
            file.write(line)
        self.rejected += 1
        log.error("outbox_rejects reason=%s kept_in=%s", reason, self._aside)

    def told(self, n: int) -> None:
        """Note that `n` more of what `next` gave last were sent; they may yet be given again."""
        with self._changed:
            self._n_told += n

    def sent(self, pending: Pending) -> None:
        """Note that all of `pending`, which `next` gave, need not be sent again."""
        with self._changed:
            self._sent = pending.next
            self._n_sent += len(pending.events)
            self._n_told = 0
            _replace(self._mark, str(self._sent))
            self._changed.notify_all()

    def rewind(self) -> bool:
        """Have every event sent again, from the first; False if none was sent."""
        with self._changed:
            if self._sent == 0:
                return False
            self._sent = self._n_sent = self._n_told = 0
            _replace(self._mark, "0")
            return True

    def drained(self, timeout: float) -> bool:
        """Wait until all is sent; False if it was not within `timeout` seconds."""
        with self._changed:
            self._awaited = True
            self._changed.notify_all()
            return self._changed.wait_for(lambda: len(self._ends) == self._n_sent, timeout)

    def rest(self, seconds: float) -> None:
        """Sleep, unless somebody waits for all to be sent, or the outbox is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._awaited or self.closed, seconds)

    def close(self) -> None:
        """Flush to the disk; whoever waits for events gets None."""
        with self._changed:
            if self.closed:
                return
            self.closed = True
            self._changed.notify_all()
            with naming_path(self._path), self._file:
                os.fsync(self._file.fileno())

    def wait_closed(self, timeout: float) -> bool:
        """Sleep for `timeout` seconds, or until the outbox is closed: True."""
        with self._changed:
            return self._changed.wait_for(lambda: self.closed, timeout)

    def _add(self, id: str, end: int) -> None:
        self._ends[id] = end
        self._counts[id.rpartition("/")[0]] += 1

    def _read_mark(self, ends: set[int]) -> int:
        """Where to go on sending; from the start if the mark is not at the end of a line."""
        try:
            mark = int(self._mark.read_text())
        except (FileNotFoundError, ValueError):
            return 0
        return mark if mark in ends else 0


def read_lines(path: Path) -> list[tuple[Any, int]]:
    """Values of the JSON lines of `path`, with where each ends; None of a line that is not JSON.

    A last line that was torn by a crash is cut off.
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
    except ValueError:  # blocks that never reached the disk before the power went
        return None


def _is_event(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("id"), str)


def _replace(path: Path, text: str) -> None:
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    new.replace(path)
