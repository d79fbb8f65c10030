"""Measures CPU seconds, memory and GPU time of all processes of a variant.

The figures come from /proc, so this needs Linux. A process that has died still counts, with its
last reading, at most about a quarter of a second earlier. GPU figures come from nvidia-smi.
"""

import multiprocessing
import os
import shutil
import subprocess
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

_TICKS = os.sysconf("SC_CLK_TCK")
_LOOK, _WEIGH = 0.25, 2.0  # seconds between readings of the CPU time, and of the memory


@dataclass
class Usage:
    """times: seconds since 1970; driver, tree: CPU seconds until then of the process itself, and of
    it with all its descendants; peak_bytes: sum of proportional set sizes; gpus: at some times, the
    share of time with a running kernel and the bytes in use, averaged over the GPUs."""

    times: list[float] = field(default_factory=list)
    driver: list[float] = field(default_factory=list)
    tree: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    gpus: list[tuple[float, float, float]] = field(default_factory=list)

    def tree_seconds(self, begin: float, end: float) -> float:
        """CPU seconds of all processes between two times."""
        return float(np.diff(np.interp([begin, end], self.times, self.tree))[0])

    def driver_seconds(self, begin: float, end: float) -> float:
        """CPU seconds of the first process of the variant between two times."""
        return float(np.diff(np.interp([begin, end], self.times, self.driver))[0])

    def gpu_figures(self, begin: float, end: float) -> dict[str, float]:
        """The GPU figures between two times; empty if there is no GPU."""
        seen = [(busy, used) for at, busy, used in self.gpus if begin <= at <= end]
        if not seen:
            return {}
        busy, used = zip(*seen, strict=True)
        return {"gpu_busy": float(np.mean(busy)), "gpu_peak_bytes": max(used)}


def measured(variant: Callable[..., Any], *arguments: object) -> tuple[Any, Usage]:
    """The return value of `variant`, run in a separate process, and its usage."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_run, args=(theirs, variant, arguments))
    process.start()
    theirs.close()
    assert process.pid is not None, "a started process has an id"
    usage, seen, weighed = Usage(), {}, 0.0
    while not ours.poll(_LOOK) and process.is_alive():
        now = time.time()
        tree = _tree(process.pid)
        seen |= {one.identity: one.seconds for one in tree}
        usage.times.append(now)
        usage.tree.append(sum(seen.values()))
        usage.driver.append(next((p.seconds for p in tree if p.pid == process.pid), 0.0))
        if now - weighed > _WEIGH:
            usage.peak_bytes = max(usage.peak_bytes, sum(_bytes(one.pid) for one in tree))
            usage.gpus += [(now, *gpu) for gpu in _gpus()]
            weighed = now
    found = ours.recv() if ours.poll() else f"ended with exit code {process.exitcode}"
    process.join()
    if isinstance(found, str):
        raise RuntimeError(f"{getattr(variant, '__name__', variant)} failed: {found}")
    return found, usage


def _run(pipe: Connection, variant: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        found = variant(*arguments)
    except Exception:
        found = traceback.format_exc()
    pipe.send(found)


def _gpus() -> list[tuple[float, float]]:
    """The mean utilisation of the GPUs and the mean bytes in use; empty if there are none."""
    if shutil.which("nvidia-smi") is None:
        return []
    asked = ["--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits"]
    said = subprocess.run(["nvidia-smi", *asked], capture_output=True, text=True, check=True)
    rows = [[float(number) for number in line.split(",")] for line in said.stdout.splitlines()]
    busy, used = np.mean(rows, axis=0)
    return [(busy / 100, used * 2**20)]


@dataclass(frozen=True)
class _Process:
    pid: int
    parent: int
    started: int
    seconds: float

    @property
    def identity(self) -> tuple[int, int]:
        """The pid and the start time; the system may give the pid to a new process later."""
        return self.pid, self.started


def _tree(root: int) -> list[_Process]:
    """The process `root` and all its descendants."""
    processes = [p for path in Path("/proc").glob("[0-9]*") if (p := _read(int(path.name)))]
    found = [p for p in processes if p.pid == root]
    for one in found:  # the list grows during the loop
        found += [p for p in processes if p.parent == one.pid]
    return found


def _read(pid: int) -> _Process | None:
    try:
        # The name, in parentheses, may contain spaces; the fields after it start with number 3.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # the process has ended
        return None
    seconds = (int(fields[11]) + int(fields[12])) / _TICKS
    return _Process(pid, int(fields[1]), int(fields[19]), seconds)


def _bytes(pid: int) -> int:
    """The proportional set size: shared pages are divided equally among their processes."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
