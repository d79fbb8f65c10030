"""The executor that runs workers in this process; other executors share its parts."""

from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from fewshot.errors.disk import disk_problem
from fewshot.errors.inputs import FewtuneError
from fewshot.errors.parts import failure_of
from orchestrator.executors.load import LoadMeter
from trials.contract import Outcome, TrialProgram, TrialSpec, Turn
from trials.errors import WorkerError


class Worker:
    """Runs one program, turn by turn."""

    def __init__(self, number: int, program: TrialProgram) -> None:
        self._number, self._program = number, program
        self._counted = (0, 0)
        self._meter = LoadMeter()

    def turn(self, release: Mapping[str, Outcome], admit: Sequence[TrialSpec]) -> Turn:
        """Release some trials, admit others, and train until there is something to report.

        Returns without training if trials were released and lanes are free now. Raises WorkerError
        if the program can't continue with any trials.
        """
        try:
            return self._turn(release, admit)
        except Exception as error:
            raise as_worker_error(error, self._number) from error

    def interrupt(self) -> None:
        """Make a running turn end soon; see `TrialProgram.interrupt`."""
        self._program.interrupt()

    def _turn(self, release: Mapping[str, Outcome], admit: Sequence[TrialSpec]) -> Turn:
        program = self._program
        results = tuple(program.release(key, outcome) for key, outcome in release.items())
        for spec in admit:
            program.admit(spec)
        # The driver may need these results before it can fill the free lanes.
        reports = () if results and program.free else tuple(program.advance())
        results += tuple(program.ended())
        before, self._counted = self._counted, (program.lane_steps, program.capacity_steps)
        return Turn(
            worker=self._number,
            reports=reports,
            results=results,
            free=program.free,
            lane_steps=self._counted[0] - before[0],
            capacity_steps=self._counted[1] - before[1],
            load=self._meter.measure(),
        )


def as_worker_error(error: Exception, worker: int) -> Exception:
    """The exception that every executor raises for an exception in a worker."""
    if isinstance(error, FewtuneError) or disk_problem(error):  # disk errors: see `disk_errors`
        return error
    return WorkerError(f"Worker {worker} can't continue: {failure_of(error).message}.")


class WorkerStates:
    """Tracks which workers are idle, and which trials each worker holds."""

    def __init__(self, workers: int, lanes: int) -> None:
        self._lanes = lanes
        self.idle = dict.fromkeys(range(workers), lanes)
        self._held: dict[int, set[str]] = {worker: set() for worker in range(workers)}

    def add(self, worker: int) -> None:
        """A worker can take orders from now on."""
        self._held.setdefault(worker, set())
        self.idle[worker] = self._lanes

    def remove(self, worker: int) -> None:
        """An idle worker can take no orders from now on."""
        del self.idle[worker]

    def ordered(
        self, worker: int, release: Mapping[str, Outcome], admit: Sequence[TrialSpec]
    ) -> bool:
        """Record the orders; returns whether the worker has anything to do."""
        if worker not in self.idle:
            raise ValueError(f"Worker {worker} is not idle.")
        self._held[worker] -= release.keys()
        self._held[worker] |= {spec.key for spec in admit}
        busy = bool(release or self._held[worker])
        if busy:
            del self.idle[worker]
        return busy

    def finish_turn(self, turn: Turn) -> None:
        self.idle[turn.worker] = turn.free
        self._held[turn.worker] -= {result.key for result in turn.results}

    def lost(self, worker: int, releasing: Mapping[str, Outcome], cause: str = "") -> Turn:
        """Record that a worker died. The returned turn lists the trials that are lost with it.

        releasing: trials that the worker was asked to release, by key; they are lost too.
        cause: why it died, in one line.
        """
        keys = self._given_up(worker, releasing)
        return Turn(worker=worker, lost=keys, loss=cause, free=self._lanes)

    def handed_back(self, turn: Turn, releasing: Mapping[str, Outcome]) -> Turn:
        """Record that a worker had to stop after `turn`; adds the trials that it hands back.

        Reports in the turn are left out: the trials repeat them on their next worker.
        """
        self.finish_turn(turn)
        ended = {result.key for result in turn.results}
        rest = tuple(key for key in self._given_up(turn.worker, releasing) if key not in ended)
        return replace(turn, reports=(), returned=rest, free=self._lanes)

    def _given_up(self, worker: int, releasing: Mapping[str, Outcome]) -> tuple[str, ...]:
        # A worker of a node that has come may die before it could take orders.
        keys = self._held.get(worker, set()) | releasing.keys()
        self._held[worker] = set()
        self.idle[worker] = self._lanes
        return tuple(sorted(keys))


class InlineExecutor:
    """The `Executor` that trains in this process; its workers take turns."""

    def __init__(self, make: Callable[[], TrialProgram], *, workers: int = 1) -> None:
        try:
            programs = [make() for _ in range(workers)]
        except Exception as error:
            raise as_worker_error(error, 0) from error
        self._workers = [Worker(i, program) for i, program in enumerate(programs)]
        self.lanes = programs[0].lanes
        self._roster = WorkerStates(workers, self.lanes)
        self._orders: deque[tuple[int, Mapping[str, Outcome], Sequence[TrialSpec]]] = deque()

    def idle(self) -> Mapping[int, int]:
        return dict(self._roster.idle)

    def workers_for(self, spec: TrialSpec) -> Collection[int]:
        return range(len(self._workers))

    def send_orders(
        self, worker: int, release: Mapping[str, Outcome], admit: Sequence[TrialSpec]
    ) -> None:
        if self._roster.ordered(worker, release, admit):
            self._orders.append((worker, release, admit))

    def turn(self) -> Turn | None:
        if not self._orders:
            return None
        worker, release, admit = self._orders.popleft()
        turn = self._workers[worker].turn(release, admit)
        self._roster.finish_turn(turn)
        return turn

    def close(self) -> None:
        self._workers.clear()
