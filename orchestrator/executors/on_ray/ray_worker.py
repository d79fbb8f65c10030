"""A worker in a process that Ray starts."""

import gc
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import ray

from fewshot.errors.disk import disk_problem
from fewshot.errors.inputs import FewtuneError
from orchestrator.executors.inline import Worker, as_worker_error
from trials.contract import Outcome, Recipe, TrialSpec, Turn
from trials.programs.several_recipes import build_for_all

# From the SIGTERM to the end of the process. The driver ends it earlier, see `ray_actors`.
_SECONDS_TO_END = 6.0
# The concurrency group of the signs of life: they run beside the training, in another thread.
SIGNS = "signs"


class RayWorker:
    """A worker as a Ray actor.

    Ray constructs it in the main thread of the process; its methods run in other threads, those of
    the group `SIGNS` beside all others. `prepare` is called first.
    """

    def __init__(
        self, number: int, recipe: Recipe, lanes: int, folder: str, cache: str, threads: int
    ) -> None:
        self._number, self._recipe, self._lanes, self._threads = number, recipe, lanes, threads
        self._folder, self._cache = Path(folder), Path(cache)
        self._worker: Worker | Exception | None = None
        self._must_stop = threading.Event()
        signal.signal(signal.SIGTERM, self._stop)

    def prepare(self) -> None:
        """Build the program. It takes time, during which the worker gives signs of life."""
        try:
            program = build_for_all(
                self._recipe,
                lanes=self._lanes,
                folder=self._folder,
                cache=self._cache,
                threads=self._threads,
            )
            self._worker = Worker(self._number, program)
        except Exception as error:  # raised at the first turn, which the driver waits for
            self._worker = as_worker_error(error, self._number)
        gc.freeze()  # a garbage collection over all imported modules takes .2 s each time

    def turn(self, release: Mapping[str, Outcome], admit: Sequence[TrialSpec]) -> Turn:
        """As `Worker.turn`; the turn is empty if this process must stop."""
        assert self._worker is not None, "`prepare` was called first"
        if isinstance(self._worker, Exception):
            with naming_node():
                raise self._worker
        if self._must_stop.is_set():
            return Turn(worker=self._number)
        with naming_node():
            return self._worker.turn(release, admit)

    @ray.method(concurrency_group=SIGNS)  # type: ignore[untyped-decorator]
    def sign(self, seconds: float) -> bool:
        """A sign of life, after some seconds. It comes at once, and is true, after a SIGTERM."""
        return self._must_stop.wait(seconds)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        """Hand the trials back and end: the machine will be gone soon."""
        if self._must_stop.is_set():
            return
        self._must_stop.set()
        if isinstance(self._worker, Worker):
            self._worker.interrupt()
        end = threading.Timer(_SECONDS_TO_END, os._exit, [1])
        end.daemon = True
        end.start()


@contextmanager
def naming_node() -> Iterator[None]:
    """Add the address of this node to errors of a disk, if the cluster has several nodes.

    Nodes have disks of their own, so a path does not say which disk is meant.
    """
    try:
        yield
    except Exception as error:
        problem = disk_problem(error)
        nodes = sum(node["Alive"] for node in ray.nodes()) if problem else 0
        if problem is None or isinstance(error, FewtuneError) or nodes < 2:
            raise
        where = f"{problem.path or 'A file'} on node {ray.util.get_node_ip_address()}"
        raise OSError(problem.errno, problem.reason, where) from error
