"""A search under a supervisor, which starts its driver again until the search is complete."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from chaos_services import Cluster, runs, signalled

from orchestrator.record.heartbeat import driver_of
from orchestrator.record.home import Home

NAME = "chaos"
TIMEOUT = 10.0  # search.worker_timeout
STEPS, LANE_STEPS, RUNGS = 10, 200, (0.3, 0.6)
_LOOK_SECONDS = 0.5
_BACKOFF_SECONDS = 2.0
_LONGEST_START = 120.0  # seconds until the first heartbeat


def config(problem: str, trials: int, pause: float) -> dict[str, Any]:
    """The config of a search; a step of `own_loop` takes `pause` seconds."""
    search = {
        "trials": trials,
        "finalists": 1,
        "seeds": 2,
        "rungs": list(RUNGS),
        "workers": "auto",
        "worker_timeout": TIMEOUT,
        "sampler": "random",  # its suggestions take no time
    }
    return {"name": NAME, **PROBLEMS[problem](search, pause)}


def _own_loop(search: dict[str, Any], pause: float) -> dict[str, Any]:
    return {
        "program": "chaos_loop:train",
        "path": str(Path(__file__).parent),
        "tasks": {"train": ["one", "two"], "validation": ["a", "b"]},
        "steps": STEPS,
        "space": {"rate": {"low": 1e-3, "high": 1.0, "log": True}, "pause": pause},
        "search": search,
    }


def _lanes(search: dict[str, Any], pause: float) -> dict[str, Any]:
    return {
        "tasks": {
            "train": [{"function": "line"}, {"function": "quadratic"}],
            "validation": [{"function": "sinusoid"}, {"function": "square"}],
            "test": [{"function": "sin3x"}],
        },
        "model": {"name": "mlp", "hidden": [8]},
        "learner": {"name": "maml", "inner_steps": 1, "adapt_steps": 1},
        "episodes": {"shot": 5, "query": 5, "per_task": 1, "validation": 8, "test": 2},
        "steps": LANE_STEPS,
        "space": {"lr/outer": {"low": 1e-4, "high": 1e-2}, "lr/inner": 0.01, "lr/adapt": 0.01},
        "search": search | {"lanes": 2},
    }


# own_loop: each trial is a process of its own. lanes: each worker trains two trials at a time.
PROBLEMS = {"own_loop": _own_loop, "lanes": _lanes}


@dataclass
class Events:
    """What happened and when, in seconds since the start; also written to a file.

    down: when no trial could report, because of what had been done to the driver, the head, the
    database of the studies or the disk.
    """

    path: Path
    began: float = field(default_factory=time.monotonic)
    down: list[tuple[float, float]] = field(default_factory=list)

    def now(self) -> float:
        return time.monotonic() - self.began

    def add(self, what: str, **more: object) -> None:
        row = {"at": round(self.now(), 1), "clock": time.strftime("%H:%M:%S"), "what": what, **more}
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{row['at']:7.1f} s  {what}  {more or ''}", flush=True)

    @contextmanager
    def lasting(self, what: str, *, down: bool) -> Iterator[None]:
        """A fault that lasts. down: whether no trial can report meanwhile."""
        since = self.now()
        self.add(what)
        try:
            yield
        finally:
            if down:
                self.down.append((since, self.now()))
            self.add(f"{what}: over")


class Supervisor(threading.Thread):
    """Runs the driver until it succeeds. It starts one anew that failed, stopped, or hangs.

    restarts: all starts but the first. reports: when a trial has made a new report.
    """

    def __init__(self, folder: Path, home: Home, cluster: Cluster, events: Events) -> None:
        super().__init__(name="supervisor", daemon=True)
        self.driver: psutil.Popen | None = None
        self.restarts, self.hangs = -1, 0
        self.reports: list[float] = []
        self.loads: list[float] = []  # how many processes want a core of this machine
        self.complete = threading.Event()
        self._folder, self._home, self._cluster, self._events = folder, home, cluster, events
        places = {name: os.environ[name] for name in ("FEWTUNE_STORAGE", "MLFLOW_TRACKING_URI")}
        self._env = {**cluster.env, **places, "RAY_ADDRESS": cluster.address}
        self._outbox, self._read = home.search(NAME) / "outbox.jsonl", 0
        self._processes: set[psutil.Process] = set()
        self._end = threading.Event()
        self._since = 0.0  # when the driver was started

    def run(self) -> None:
        while not self._end.is_set():
            self.restarts += 1
            code = self._life()
            self._events.add("driver ended", code=code, life=self.restarts, said=self._last_words())
            if code == 0:
                self.complete.set()
                return
            self._end.wait(_BACKOFF_SECONDS)

    def end(self) -> None:
        """Kill the driver, and start it no more."""
        self._end.set()
        if self.driver is not None:
            signalled([self.driver], 9)
        self.join()

    def left(self) -> list[psutil.Process]:
        """The processes that the search has started and that still run."""
        return [process for process in self._processes if runs(process)]

    def _log(self) -> Path:
        return self._folder / f"driver_{self.restarts}.log"

    def _last_words(self) -> str:
        return "".join(self._log().read_text().splitlines()[-1:])[:300]

    def _life(self) -> int:
        """Start the driver, and wait for its end; returns its exit code."""
        command = [sys.executable, "-m", "orchestrator.cli", "search"]
        command += [str(self._folder / "search.yaml"), "--home", str(self._home.path), "--json"]
        if self._home.config(NAME).exists():
            command.append("--resume")
        with self._log().open("wb") as output:
            self.driver = psutil.Popen(
                command,
                env=self._env,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._since = time.monotonic()
        while (code := self.driver.poll()) is None:
            self._look()
            if self._hangs():
                self.hangs += self.driver.status() != psutil.STATUS_STOPPED
                self._events.add("driver stalls: killed", status=self.driver.status())
                self.driver.kill()
            time.sleep(_LOOK_SECONDS)
        self._look()
        return int(code)

    def _hangs(self) -> bool:
        """Whether `fewtune status` calls the driver stalled, or it does not even start."""
        with suppress(OSError):
            found = driver_of(self._home, NAME)
            if found.beat is not None and self.driver and found.beat.pid == self.driver.pid:
                return found.state == "stalled"
        return time.monotonic() - self._since > _LONGEST_START

    def _look(self) -> None:
        """Note new reports and new processes."""
        self.loads.append(os.getloadavg()[0] / (os.cpu_count() or 1))
        with suppress(OSError), self._outbox.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._read += len(line)
                if b"/step/" in line[:60]:
                    self.reports.append(self._events.now())
        workers = self._cluster.workers()
        roots = workers if self.driver is None else [*workers, self.driver]
        for root in roots:
            with suppress(psutil.Error):
                self._processes |= {psutil.Process(root.pid), *root.children(recursive=True)}


def longest_stall(reports: list[float], down: list[tuple[float, float]]) -> float:
    """The longest time without a report in which nothing was down, from the first to the last."""
    if not reports:
        return 0.0
    first, last = min(reports), max(reports)
    marks = [(at, at) for at in reports] + [(a, b) for a, b in down if b > first and a < last]
    longest, since = 0.0, first
    for begin, end in sorted(marks):
        longest = max(longest, begin - since)
        since = max(since, end)
    return longest
