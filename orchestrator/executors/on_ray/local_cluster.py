"""Ray on this machine for one search: its start, the death of its parts, and its end."""

import logging
import os
import secrets
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from fewshot.errors.inputs import FewtuneError
from orchestrator.executors.on_ray import orphans

log = logging.getLogger(__name__)

# Ray waits 30 s for its own parts, which is too short on a busy machine.
_STARTS = 3
# Without these, nothing can be started, and Ray ends this process after a minute.
_PARTS = ("gcs_server", "raylet")
_END_SECONDS = 20.0


class LocalCluster:
    """The processes of a Ray that `ray.init` starts here. They end when this process does."""

    def __init__(self, init: Callable[[], object], shutdown: Callable[[], None]) -> None:
        """init, shutdown: `ray.init` with its arguments, and `ray.shutdown`."""
        self._init, self._shutdown = init, shutdown
        self._guard: subprocess.Popen[bytes] | None = None
        self._parts: dict[str, psutil.Process] = {}

    def start(self) -> None:
        """Start Ray; raises FewtuneError if it does not start."""
        for left in reversed(range(_STARTS)):
            try:
                self._start_once()
            except Exception as error:
                self.end()
                reason = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
                if not left:
                    raise FewtuneError(
                        f"Ray can't be started on this machine: {reason}. If the machine is busy, "
                        "try again later; add `--resume` to continue a search."
                    ) from error
                log.warning("ray_did_not_start starts_left=%d error=%s", left, reason)
            else:
                return

    def _start_once(self) -> None:
        mark = secrets.token_hex(8)
        self._guard = _guard(mark)
        os.environ[orphans.MARK] = mark  # inherited by all processes of Ray
        try:
            self._init()
        finally:
            del os.environ[orphans.MARK]
        own = [each for each in psutil.Process().children() if orphans.has_mark(each, mark)]
        self._parts = {name: each for each in own if (name := each.name()) in _PARTS}

    def dead_part(self) -> str:
        """The name of a part of Ray that has died; empty if Ray can be used."""
        return next((name for name, part in self._parts.items() if _is_dead(part)), "")

    def end(self) -> None:
        """End all processes of Ray."""
        with suppress(Exception):  # of a Ray of which parts are missing
            self._shutdown()
        self._parts = {}
        if self._guard is not None and self._guard.stdin is not None:
            self._guard.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                self._guard.wait(_END_SECONDS)
            self._guard = None


def _guard(mark: str) -> "subprocess.Popen[bytes]":
    """Start the process that ends Ray when this process has gone."""
    return subprocess.Popen(
        [sys.executable, "-P", str(Path(orphans.__file__)), str(os.getpid()), mark],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # signals of a terminal are not for it
    )


def _is_dead(part: psutil.Process) -> bool:
    try:
        return bool(part.status() == psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return True
