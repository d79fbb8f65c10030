"""Helpers: processes that write runs to MLflow beside the sender.

A process of its own has a Python interpreter of its own: threads would take turns. It gets one JSON
line for each run, writes the run, and answers with one line. It holds no state that matters, and
ends when its standard input is closed, so that it does not outlive the sender for longer than one
run.

    python -m orchestrator.tracking.sending.helpers
"""

import dataclasses
import fcntl
import gc
import json
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from orchestrator.tracking.events import RunEvent, event_of
from orchestrator.tracking.run_ids import RunIds
from orchestrator.tracking.sending.run_writer import RunWriter, code

log = logging.getLogger(__name__)

_LOCK = "helpers.lock"


class HelperError(Exception):
    """A run that a helper could not write; error_code: MLflow's."""

    def __init__(self, message: str, error_code: str = "") -> None:
        super().__init__(message)
        self.error_code = error_code


class Helper:
    """The sender's end of one helper; a helper that has failed to answer is of no further use."""

    def __init__(self, folder: Path, tracking_uri: str, search_id: str) -> None:
        # A session of its own: Ctrl-C must not end it in the middle of a run.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        self.rejected = 0
        # The URI may contain a password, which the list of processes must not show.
        self._say({"uri": tracking_uri, "search_id": search_id, "folder": str(folder)})

    def write(self, batches: Sequence[list[RunEvent]], run_ids: RunIds, *, known: bool) -> None:
        """Have the batches of one run written, in order; `run_ids` learns of a run that is new.

        known: as in `RunWriter`. Raises HelperError.
        """
        event = batches[0][0]
        keys = [key for key in (event.key, event.parent) if key in run_ids.runs]
        self._say(
            {
                "events": [[dataclasses.asdict(event) for event in batch] for batch in batches],
                "runs": {key: run_ids.runs[key] for key in keys if key is not None},
                "known": known,
            }
        )
        answer = self._hear()
        for key, run_id in answer["made"].items():
            run_ids.add(key, run_id)
        for level, message in answer["log"]:
            log.log(level, "%s", message)
        self.rejected += answer["rejected"]
        if answer["error"] is not None:
            raise HelperError(*answer["error"])

    def close(self, timeout: float = 5) -> None:
        """Let it end after the run that it writes now; after `timeout` seconds it is killed."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None, "both are pipes"
            with suppress(BrokenPipeError):
                pipe.close()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _say(self, what: Any) -> None:
        assert self._process.stdin is not None, "it is a pipe"
        try:
            self._process.stdin.write(json.dumps(what) + "\n")
            self._process.stdin.flush()
        except (OSError, ValueError) as error:  # it has ended, or `close` was called meanwhile
            raise HelperError(f"the helper has ended: {error}") from error

    def _hear(self) -> Any:
        assert self._process.stdout is not None, "it is a pipe"
        try:
            line = self._process.stdout.readline()
        except ValueError as error:  # `close` was called meanwhile
            raise HelperError(f"the helper was closed: {error}") from error
        if not line:
            raise HelperError(f"the helper has ended: exit code {self._process.wait()}")
        return json.loads(line)


def wait_for_earlier_helpers(folder: Path) -> None:
    """Wait until helpers of an earlier process have ended: they may still create a run."""
    with (folder / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)


class _Kept(logging.Handler):
    """Keeps log records for the sender, whose process has a configured log."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record.levelno, record.getMessage()))


class _RequestRuns:
    """The run ids of the current request; `made` are those that the writer has added."""

    def __init__(self) -> None:
        self.runs: dict[str, str] = {}
        self.made: dict[str, str] = {}

    def add(self, key: str, run_id: str) -> None:
        self.runs[key] = self.made[key] = run_id


def _serve(requests: IO[str], answers: IO[str]) -> None:
    first = json.loads(requests.readline())
    kept, ids = _Kept(), _RequestRuns()
    logging.getLogger("orchestrator").addHandler(kept)
    logging.getLogger("orchestrator").propagate = False
    with (Path(first["folder"]) / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        writer: RunWriter | None = None
        for line in requests:
            error: tuple[str, str] | None = None
            ids.made = {}
            before = writer.rejected if writer else 0
            try:
                if writer is None:  # MLflow may be away when the helper starts
                    writer = RunWriter(first["uri"], first["search_id"], ids)
                    gc.freeze()  # collections need not visit MLflow's modules
                _write(writer, ids, json.loads(line))
            except Exception as raised:
                error = (str(raised), code(raised))
            rejected = (writer.rejected if writer else 0) - before
            answer = {"made": ids.made, "log": kept.lines, "rejected": rejected, "error": error}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()
            kept.lines.clear()


def _write(writer: RunWriter, ids: _RequestRuns, request: Any) -> None:
    ids.runs = dict(request["runs"])
    writer.known = request["known"]
    for batch in request["events"]:
        writer.write([event_of(event) for event in batch])


if __name__ == "__main__":
    # What a library prints must not get among the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _serve(sys.stdin, answers)
