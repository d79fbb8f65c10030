"""A process that ends the processes of Ray when the process that started Ray has gone.

After `kill -9` of a driver, Ray's agents live on for minutes. Run as a program by `local_cluster`,
in a session of its own: standard input is a pipe, whose other end the driver holds.
"""

import os
import select
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress

import psutil

MARK = "FEWTUNE_RAY"  # the environment variable of the processes of one Ray
_LOOK_SECONDS = 3.0  # between two looks for new processes
_GRACE_SECONDS = 3.0  # from SIGTERM to SIGKILL


class RayTree:
    """The processes of one Ray.

    Those that `driver` starts have the mark in their environment. Ray changes the title of others,
    which overwrites their environment; they are known as descendants of the marked ones.
    """

    def __init__(self, driver: int, mark: str) -> None:
        self._driver, self._mark = driver, mark
        self._known: set[psutil.Process] = set()

    def look(self) -> None:
        """Remember the processes that there are now."""
        children: dict[int, list[psutil.Process]] = defaultdict(list)
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                children[process.ppid()].append(process)
        # A child that was just forked gets its environment a moment later, so it is checked again.
        self._known |= {each for each in children[self._driver] if has_mark(each, self._mark)}
        waiting = list(self._known)
        while waiting:
            for child in children[waiting.pop().pid]:
                if child not in self._known:
                    self._known.add(child)
                    waiting.append(child)

    def end(self) -> None:
        """End all of these processes that run, first with SIGTERM."""
        self._known |= {each for each in psutil.process_iter() if has_mark(each, self._mark)}
        self._known -= {psutil.Process()}
        for signal in (psutil.Process.terminate, psutil.Process.kill):
            for process in self._known:
                with suppress(psutil.Error):  # a new process with the number of an old one is safe
                    signal(process)
            _wait(self._known)


def _wait(processes: Iterable[psutil.Process]) -> None:
    """Wait until the processes have ended, for at most `_GRACE_SECONDS`."""
    deadline = time.monotonic() + _GRACE_SECONDS
    while any(map(_runs, processes)) and time.monotonic() < deadline:
        time.sleep(0.05)


def _runs(process: psutil.Process) -> bool:
    """Whether a process runs; a zombie waits for its parent, which may be busy."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def has_mark(process: psutil.Process, mark: str) -> bool:
    """Whether the environment of a process, as it was at its start, has the mark."""
    try:
        return bool(process.environ().get(MARK) == mark)
    except (psutil.Error, OSError):
        return False


def main() -> None:
    """Wait for the end of the driver, or until it closes the pipe; then end its Ray."""
    driver, mark = int(sys.argv[1]), sys.argv[2]
    tree = RayTree(driver, mark)
    while os.getppid() == driver:
        tree.look()
        ready, _, _ = select.select([sys.stdin], [], [], _LOOK_SECONDS)
        if ready:  # nothing is ever written to the pipe
            break
    tree.look()
    tree.end()


if __name__ == "__main__":
    main()
