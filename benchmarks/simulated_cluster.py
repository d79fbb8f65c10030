"""A simulated cluster: workers that train in simulated time, and a driver that takes real time."""

import heapq
import os
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any
from unittest.mock import patch

from orchestrator.executors.inline import Worker, WorkerStates
from trials.contract import Outcome, TrialProgram, TrialSpec, Turn


@dataclass(frozen=True)
class Timing:
    """The time that a worker with all its lanes needs for a step, and for the report of a lane."""

    step: float
    report: float

    def of(self, turn: Turn, lanes: int) -> float:
        return self.step * turn.capacity_steps / lanes + self.report * len(turn.reports)


class DriverClock:
    """The seconds that the driver has worked: its CPU time, and the wall time of each fsync.

    CPU time, because other processes must not slow the simulated driver down. The time of a part
    does not include that of the parts that it calls.
    """

    def __init__(self) -> None:
        self.parts: defaultdict[str, float] = defaultdict(float)
        self._inner: list[float] = []
        self._waited = 0.0  # wall time minus CPU time of fsync

    def seconds(self) -> float:
        return time.process_time() + self._waited

    def fsync(self, sync: Callable[[int], None]) -> Callable[[int], None]:
        def timed(file: int) -> None:
            wall, cpu = time.perf_counter(), time.process_time()
            sync(file)
            waited = time.perf_counter() - wall - (time.process_time() - cpu)
            self._waited += max(0.0, waited)

        return timed

    def part(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, which counts as this part of the driver."""

        @wraps(call)
        def timed(*arguments: Any, **named: Any) -> Any:
            began = self.seconds()
            self._inner.append(0.0)
            try:
                return call(*arguments, **named)
            finally:
                whole = self.seconds() - began
                self.parts[name] += whole - self._inner.pop()
                if self._inner:
                    self._inner[-1] += whole

        return timed

    @contextmanager
    def watching(self, parts: Mapping[str, Sequence[tuple[type, str]]]) -> Iterator[None]:
        """Time the methods of each part, by the part's name."""
        with ExitStack() as stack:
            stack.enter_context(patch.object(os, "fsync", self.fsync(os.fsync)))
            for name, methods in parts.items():
                for owner, method in methods:
                    timed = self.part(name, getattr(owner, method))
                    stack.enter_context(patch.object(owner, method, timed))
            yield


class SimulatedCluster:
    """The `Executor` whose workers train in simulated time.

    The clock of the simulation advances by the time that the driver works, and to the end of the
    next turn if the driver has nothing to do. A worker waits from the end of its turn until it gets
    its next orders.
    """

    def __init__(
        self, make: Callable[[], TrialProgram], workers: int, timing: Timing, clock: DriverClock
    ) -> None:
        self.workers = workers
        self._workers = [Worker(i, make()) for i in range(workers)]
        self.lanes = make().lanes
        self._states = WorkerStates(workers, self.lanes)
        self._timing, self._clock = timing, clock
        self._turns: list[tuple[float, int, Turn]] = []  # a heap of the turns by their end
        self._since: dict[int, float] = {}  # when each idle worker ended its turn
        self._driver = clock.seconds()  # until here the driver's time has been counted
        self.now = 0.0
        self.busy = 0.0  # seconds in which the driver worked
        self._waited = 0.0  # seconds of the workers between their turns, without the last wait
        self.reports = self.turns = 0

    def idle(self) -> Mapping[int, int]:
        return dict(self._states.idle)

    def workers_for(self, spec: TrialSpec) -> Collection[int]:
        return range(self.workers)

    def send_orders(
        self, worker: int, release: Mapping[str, Outcome], admit: Sequence[TrialSpec]
    ) -> None:
        self._count_driver()
        if self._states.ordered(worker, release, admit):
            self._waited += self.now - self._since.pop(worker, self.now)
            turn = self._workers[worker].turn(release, admit)
            seconds = self._timing.of(turn, self.lanes)
            heapq.heappush(self._turns, (self.now + seconds, worker, turn))
        self._driver = self._clock.seconds()  # the work of the simulation is not the driver's

    def turn(self) -> Turn | None:
        self._count_driver()
        if not self._turns:
            return None
        end, worker, turn = heapq.heappop(self._turns)
        self._since[worker] = end
        self.now = max(self.now, end)
        self._states.finish_turn(turn)
        self.reports += len(turn.reports)
        self.turns += 1
        self._driver = self._clock.seconds()
        return turn

    def waited(self) -> float:
        """The seconds that all workers have waited until now."""
        since = [*self._since.values(), *(end for end, _, _ in self._turns if end < self.now)]
        return self._waited + sum(self.now - end for end in since)

    def close(self) -> None:
        self._workers.clear()

    def _count_driver(self) -> None:
        seconds = self._clock.seconds() - self._driver
        self.now += seconds
        self.busy += seconds
