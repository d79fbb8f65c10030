"""The heartbeat of a search: a small file by which others see whether its driver still runs.

The driver's thread writes `searches/NAME/heartbeat.json` every `INTERVAL` seconds. A reader needs
nothing but the home, which may be a folder that several machines share. Between machines, clocks
may differ by some seconds.
"""

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from orchestrator.config.passwords import redacted
from orchestrator.record.home import Home

log = logging.getLogger(__name__)

INTERVAL = 5.0  # seconds between two beats
# A driver whose last beat is older than this many seconds is stopped, hangs, or is gone.
SILENT_SECONDS = 30.0
# The main loop comes by every second; if it did not for this long, it hangs.
STUCK_SECONDS = 120.0
_LONGEST_REASON = 500

End = Literal["", "complete", "stopped", "failed"]
State = Literal["running", "stalled", "dead", "complete", "stopped", "failed"]


@dataclass(frozen=True, kw_only=True)
class Beat:
    """What a driver last said. Times are in seconds since 1970.

    looped: when the main loop last came by; None while there is no loop, such as while data are
    read. reported: when a trial last reported; None before that. end: how the driver ended; empty
    while it runs. reason: why it failed.
    """

    host: str
    pid: int
    started: float
    beat: float
    stage: str = ""
    looped: float | None = None
    reported: float | None = None
    end: End = ""
    reason: str = ""


@dataclass(frozen=True)
class Driver:
    """The state of a driver, and its last beat (None for searches of earlier versions).

    running: it works. stalled: its process exists, or may exist, but does nothing. dead: its
    process is gone without a word. complete, stopped, failed: it has ended.
    """

    state: State
    beat: Beat | None

    @property
    def gone(self) -> bool:
        """Whether nothing trains any more."""
        return self.state not in ("running", "stalled")


class Heartbeat:
    """Writes the beats of this process while it is entered, and at the exit how it ended.

    stopped: the exceptions that mean that the user has stopped the search.
    """

    def __init__(self, folder: Path, stopped: tuple[type[BaseException], ...]) -> None:
        self._path, self._stopped = _path(folder), stopped
        now = time.time()
        self._beat = Beat(host=socket.gethostname(), pid=os.getpid(), started=now, beat=now)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def observing(self, observe: Callable[..., None]) -> Callable[..., None]:
        """The observer of a search, which also notes the stage, and that a trial has reported."""

        def both(stage: str, records: Any) -> None:
            again = stage == self._beat.stage
            now = time.time() if again else self._beat.reported
            looped = self._beat.looped if again else None
            self._beat = replace(self._beat, stage=stage, reported=now, looped=looped)
            observe(stage, records)

        return both

    def looping(self, should_stop: Callable[[], bool]) -> Callable[[], bool]:
        """The question whether to stop, which the main loop asks each time it comes by."""

        def both() -> bool:
            self._beat = replace(self._beat, looped=time.time())
            return should_stop()

        return both

    def __enter__(self) -> Self:
        self._write()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end.set()
        self._thread.join()
        end: End = "complete" if error is None else "failed"
        if isinstance(error, self._stopped):
            end = "stopped"
        reason = redacted(" ".join(str(error).split()))[:_LONGEST_REASON] if end == "failed" else ""
        self._beat = replace(self._beat, end=end, reason=reason)
        self._write()

    def _run(self) -> None:
        while not self._end.wait(INTERVAL):
            self._write()

    def _write(self) -> None:
        beat = replace(self._beat, beat=time.time())
        partial = self._path.with_suffix(".partial")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(asdict(beat)), encoding="utf-8")
            partial.replace(self._path)
        except OSError as error:  # such as a full disk: the search itself will say so
            log.info("no_heartbeat error=%s", error)


def driver_of(home: Home, name: str, *, now: float | None = None) -> Driver:
    """The driver of the search `name`; `now`: the time in seconds since 1970, by default now."""
    beat, owned = _read(home.search(name)), home.is_owned(name)
    if beat is None:
        return Driver("running" if owned else "stopped", None)
    age = (time.time() if now is None else now) - beat.beat
    if beat.end and (not owned or age > SILENT_SECONDS):
        return Driver(beat.end, beat)
    # Locks tell for certain on one machine; a shared folder may not pass them on.
    here = beat.host == socket.gethostname()
    if not owned and (here or age > SILENT_SECONDS):
        return Driver("dead", beat)
    stuck = beat.looped is not None and beat.beat - beat.looped > STUCK_SECONDS
    return Driver("stalled" if stuck or age > SILENT_SECONDS else "running", beat)


def _read(folder: Path) -> Beat | None:
    try:
        return Beat(**json.loads(_path(folder).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _path(folder: Path) -> Path:
    return folder / "heartbeat.json"
