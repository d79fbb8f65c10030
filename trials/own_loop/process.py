"""The parent's side of a child process that runs a training function."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from fewshot.errors.inputs import ErrorDetail, InputError, input_error
from trials.contract import TrainingFunction
from trials.own_loop.child import IN_TRIAL
from trials.own_loop.trial import Trial

_ROOT = Path(__file__).parents[2]
_POLL_SECONDS = 0.1  # between two checks whether a silent process still runs
_CLOSE_SECONDS = 10.0  # for a function to clean up after its trial was pruned
_LOG_CHARACTERS = 2000


class TrialFailed(Exception):
    """The trial has failed. error: the reason in one line. traceback: more text, or None."""

    def __init__(self, error: str, traceback: str | None = None) -> None:
        super().__init__(error)
        self.error, self.traceback = error, traceback


class Interrupted(Exception):
    """This process must stop, so it waits no longer for the trial."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What the child process is told.

    trial: None to only import the function. needed, needed_at_end: the tasks that must have a score
    at a rung and at the last rung. known: the tasks that may have a score.
    """

    function: TrainingFunction
    trial: Trial | None = None
    needed: Sequence[str] = ()
    needed_at_end: Sequence[str] = ()
    known: Sequence[str] = ()

    def to_json(self) -> str:
        trial = None if self.trial is None else asdict(self.trial)
        if trial is not None:
            trial["folder"] = str(trial["folder"])
        path = [self.function.folder, *(entry for entry in sys.path if entry)]
        names = {key: list(getattr(self, key)) for key in ("needed", "needed_at_end", "known")}
        return json.dumps({"function": self.function.name, "path": path, "trial": trial, **names})


class ChildProcess:
    """A child process that runs one task, with all processes that it starts.

    It gets a session of its own, so that Ctrl-C in a terminal does not reach it. It ends when this
    object is closed or collected, or when this process ends, however that happens.

    log: the file to which its standard output and standard error are appended. threads: number of
    threads for OpenMP, unless OMP_NUM_THREADS is set.
    """

    def __init__(self, task: Task, log: Path, *, threads: int = 1) -> None:
        if os.environ.get(IN_TRIAL):
            rule = "is imported by a trial, and the import starts another search."
            remedy = 'Start the search under `if __name__ == "__main__":`.'
            raise input_error("program", rule, task.function.name, remedy)
        self._socket, theirs = socket.socketpair()
        lifeline, ours = os.pipe()
        log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with log.open("ab") as output:
                self._process = _started(theirs, lifeline, output, task.function, threads)
        except BaseException:
            os.close(ours)
            self._socket.close()
            raise
        finally:
            theirs.close()
            os.close(lifeline)
        self._received = b""
        self._log, self._log_start = log, log.stat().st_size
        self._end = weakref.finalize(self, _end, self._process, self._socket, ours)
        self._send(task.to_json())

    def order(self, order: str) -> None:
        """Send `go` or `end`."""
        self._send(order)

    def receive(
        self, timeout: float | None, interrupted: threading.Event | None = None
    ) -> Mapping[str, Any]:
        """Wait for the next message; raises Interrupted if `interrupted` is set meanwhile.

        Raises TrialFailed if the function failed, if the process ended without a message, or if
        there is no message within `timeout` seconds. Raises OSError if the disk is full, read-only
        or broken: that is no failure of the trial.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while b"\n" not in self._received:
            left = _POLL_SECONDS if deadline is None else deadline - time.monotonic()
            if left <= 0:
                self.kill()
                raise TrialFailed(f"made no report for {timeout:g} s (search.trial_timeout)")
            if interrupted is not None and interrupted.is_set():
                raise Interrupted
            ended = self._process.poll() is not None
            if select.select([self._socket], [], [], min(left, _POLL_SECONDS))[0]:
                data = self._socket.recv(1 << 16)
                self._received += data
                if not data:  # it closed the connection, so it is ending
                    raise self._silent_end()
            elif ended:
                raise self._silent_end()
        line, _, self._received = self._received.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        if message["kind"] == "failed":
            if "disk" in message:
                number, path = message["disk"]
                raise OSError(number, os.strerror(number), path)
            if "details" in message:
                raise InputError(ErrorDetail(*detail) for detail in message["details"])
            raise TrialFailed(message["error"], message.get("traceback"))
        return message

    def close(self) -> None:
        """Wait a moment until the process ends by itself, then kill what is left of it."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_CLOSE_SECONDS)
        self.kill()

    def kill(self) -> None:
        """Kill the process and all processes of its group."""
        self._end()

    def _send(self, line: str) -> None:
        with suppress(OSError):  # the process has ended, which `receive` will report
            self._socket.sendall(line.encode() + b"\n")

    def _silent_end(self) -> TrialFailed:
        """How the process ended, with the last lines of its output."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_CLOSE_SECONDS)
        code = self._process.poll()
        self.kill()
        with self._log.open("rb") as file:
            file.seek(max(self._log_start, self._log.stat().st_size - _LOG_CHARACTERS))
            output = file.read().decode(errors="replace").strip()
        return TrialFailed(_how_it_ended(code), output or None)


def _started(
    connection: socket.socket,
    lifeline: int,
    output: IO[bytes],
    function: TrainingFunction,
    threads: int,
) -> "subprocess.Popen[bytes]":
    descriptors = (connection.fileno(), lifeline)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ, "PYTHONUNBUFFERED": "1"}
    if str(_ROOT) != sysconfig.get_path("purelib"):
        paths = [path for path in (os.environ.get("PYTHONPATH"), str(_ROOT)) if path]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
    return subprocess.Popen(
        # -P: the working directory must not hide a package of fewtune.
        [sys.executable, "-P", "-m", "trials.own_loop.child", *map(str, descriptors)],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=descriptors,
        cwd=function.folder if Path(function.folder).is_dir() else None,
        env=environment,
        start_new_session=True,
    )


def _end(process: "subprocess.Popen[bytes]", connection: socket.socket, lifeline: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    connection.close()
    os.close(lifeline)


def _how_it_ended(code: int | None) -> str:
    if code is None:
        return "its process closed its connection to the search"
    if code >= 0:
        return f"its process exited with code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    memory = ", perhaps because the memory was full" if name == "SIGKILL" else ""
    return f"its process was killed by {name}{memory}"
