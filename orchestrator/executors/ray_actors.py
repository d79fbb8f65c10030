"""The executor whose workers are Ray actors, each with CPUs or a share of a GPU."""

import gc
import logging
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from fewshot.errors.disk import disk_problem
from fewshot.errors.inputs import FewtuneError
from orchestrator.executors.inline import Worker, WorkerStates, as_worker_error
from orchestrator.executors.local_cluster import LocalCluster
from trials.contract import Outcome, Recipe, TrialSpec, Turn
from trials.programs.several_recipes import build_for_all

log = logging.getLogger(__name__)

# How often in a row, without a turn of a worker, Ray is started anew on this machine.
_MAX_RAY_LOSSES = 3


class _Actor:
    """A worker in a process that Ray starts."""

    def __init__(
        self, number: int, recipe: Recipe, lanes: int, folder: str, cache: str, threads: int
    ) -> None:
        self._worker: Worker | Exception
        try:
            program = build_for_all(
                recipe, lanes=lanes, folder=Path(folder), cache=Path(cache), threads=threads
            )
            self._worker = Worker(number, program)
        # Raised at the first turn, because Ray reports an error in `__init__` as a dead actor.
        except Exception as error:
            self._worker = as_worker_error(error, number)
        gc.freeze()  # a garbage collection over all imported modules takes .2 s each time

    def turn(self, release: Mapping[str, Outcome], admit: Sequence[TrialSpec]) -> Turn:
        if isinstance(self._worker, Exception):
            raise self._worker
        return self._worker.turn(release, admit)


def _called(function: Callable[[], int]) -> int:
    return function()


class RayExecutor:
    """The `Executor` whose workers are Ray actors.

    It joins the cluster that RAY_ADDRESS names (Ray sets it inside a Ray job). Without RAY_ADDRESS
    it starts Ray on this machine for the time of the search. A worker that dies is restarted here
    and not by Ray, because Ray would hide that its trials were lost. If a part of the Ray on this
    machine dies, Ray is started anew, and the trials of all workers are lost.

    lanes: number per worker, or a function that returns it; the function runs with the resources of
    a worker.
    workers: number of workers; None for one per GPU of the cluster, or one if there is no GPU.
    cpus_per_worker: cores and threads per worker; one is enough for the small matrices of most
    recipes.
    gpus_per_worker: 0 to 1, or a whole number for a user's own loop; None for one GPU per worker if
    the cluster has GPUs. If two workers
    share a GPU, one trains while the other waits for orders. Ray fills one GPU after the other.
    folder, cache: every node must see the same files there.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        lanes: int | Callable[[], int],
        folder: Path,
        cache: Path,
        workers: int | None = None,
        cpus_per_worker: int = 1,
        gpus_per_worker: float | None = None,
    ) -> None:
        self._actors: dict[int, Any] = {}
        self._pending: dict[Any, tuple[int, Mapping[str, Outcome]]] = {}
        self._connection = join()
        self._ray_losses = 0
        try:
            cluster = ray.cluster_resources()
            gpus, cpus = int(cluster.get("GPU", 0)), int(cluster.get("CPU", 1))
            workers = workers or max(1, gpus)
            gpu = (1 if gpus else 0) if gpus_per_worker is None else gpus_per_worker
            self._share = {"num_gpus": gpu, "num_cpus": min(cpus, cpus_per_worker)}
            self.lanes = lanes if isinstance(lanes, int) else self._ask_worker(lanes)
            self._arguments = (recipe, self.lanes, str(folder), str(cache), cpus_per_worker)
            self._roster = WorkerStates(workers, self.lanes)
            self._actors |= {worker: self._spawn(worker) for worker in range(workers)}
        except BaseException:
            self.close()
            raise

    def _ask_worker(self, lanes: Callable[[], int]) -> int:
        # With `max_calls=1` the process ends after the call and frees its memory.
        task = ray.remote(max_calls=1, **self._share)(_called)
        reference = task.remote(lanes)
        while not ray.wait([reference], timeout=1.0)[0]:
            if part := self._dead_part():
                raise _ray_lost(part)
        try:
            return int(ray.get(reference))
        except RayTaskError as error:
            raise as_worker_error(error.cause, 0) from None

    def _spawn(self, worker: int) -> Any:
        actor = ray.remote(_Actor).options(max_restarts=0, max_task_retries=0, **self._share)
        return actor.remote(worker, *self._arguments)

    def idle(self) -> Mapping[int, int]:
        return dict(self._roster.idle)

    def send_orders(
        self, worker: int, release: Mapping[str, Outcome], admit: Sequence[TrialSpec]
    ) -> None:
        if self._roster.ordered(worker, release, admit):
            reference = self._actors[worker].turn.remote(dict(release), list(admit))
            self._pending[reference] = (worker, release)

    def _dead_part(self) -> str:
        """The name of a part of Ray that has died, if this process started Ray; else empty."""
        return "" if self._connection is None else self._connection.dead_part()

    def _start_anew(self, part: str) -> Turn:
        """Replace a Ray of which a part has died. The returned turn lists all trials."""
        self._ray_losses += 1
        if self._ray_losses > _MAX_RAY_LOSSES:
            raise _ray_lost(part)
        log.warning("ray lost part=%s; starting Ray anew", part)
        assert self._connection is not None, "a cluster that others started is not watched"
        releasing, self._pending = dict(self._pending.values()), {}
        workers, self._actors = list(self._actors), {}  # if Ray does not start, there are none
        self._connection.close()
        self._connection = join()
        self._actors = {worker: self._spawn(worker) for worker in workers}
        lost = [self._roster.lost(worker, releasing.get(worker, {})) for worker in self._actors]
        return replace(lost[0], lost=tuple(sorted(key for turn in lost for key in turn.lost)))

    def turn(self) -> Turn | None:
        if part := self._dead_part():
            return self._start_anew(part)
        ready, _ = ray.wait(list(self._pending), num_returns=1, timeout=1.0)
        if not ready:
            return None
        worker, release = self._pending.pop(ready[0])
        try:
            turn: Turn = ray.get(ready[0])
        except RayActorError as error:
            if disk_problem(error):  # a full disk would kill the next worker too
                raise
            if part := self._dead_part():
                self._pending[ready[0]] = (worker, release)
                return self._start_anew(part)
            log.warning("worker lost worker=%d error=%s", worker, str(error).splitlines()[0])
            self._actors[worker] = self._spawn(worker)
            return self._roster.lost(worker, release)
        except RayTaskError as error:  # its own text has the whole traceback twice
            raise as_worker_error(error.cause, worker) from None
        self._roster.finish_turn(turn)
        self._ray_losses = 0
        return turn

    def close(self) -> None:
        if not self._dead_part():
            for actor in self._actors.values():
                ray.kill(actor)
        self._actors.clear()
        if self._connection is not None:
            self._connection.close()


def _ray_lost(part: str) -> FewtuneError:
    return FewtuneError(
        f"Ray can't be used: its process {part} has died. Nothing that was reported is lost. Run "
        "the same command with `--resume` to continue the search."
    )


class _Connection(threading.Thread):
    """A thread that connects to a cluster and lives as long as the connection.

    `ray.init` does not run in the main thread, because there it would replace our SIGTERM handler.
    The thread must outlive the cluster: Linux kills the processes that Ray starts when the thread
    that started them ends.

    local: whether Ray is started on this machine, and ends with the connection.
    """

    def __init__(self, *, local: bool, **options: Any) -> None:
        super().__init__(name="ray-connection", daemon=True)
        self._init = partial(ray.init, **options)
        self._local = LocalCluster(self._init, ray.shutdown) if local else None
        self._connected, self._closed = threading.Event(), threading.Event()
        self._error: BaseException | None = None

    def run(self) -> None:
        # Ray's processes inherit this mask: closing the terminal must not end them before us.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        try:
            self._init() if self._local is None else self._local.start()
        except BaseException as error:
            self._error = error
        self._connected.set()
        self._closed.wait()

    def open(self) -> None:
        """Connect and wait until connected; raises the exceptions of `ray.init`."""
        self.start()
        while not self._connected.wait(0.05):
            _keep_handler()
        _keep_handler()
        if self._error is not None:
            self._closed.set()
            raise self._error

    def dead_part(self) -> str:
        """The name of a part of a local Ray that has died; empty if Ray can be used."""
        return "" if self._local is None else self._local.dead_part()

    def close(self) -> None:
        ray.shutdown() if self._local is None else self._local.end()
        self._closed.set()


def _keep_handler() -> None:
    """Restore Python's SIGTERM handler: the handler of Ray's C++ code aborts the process."""
    if threading.current_thread() is threading.main_thread():
        handler = signal.getsignal(signal.SIGTERM)
        if handler is not None:
            signal.signal(signal.SIGTERM, handler)


def join() -> _Connection | None:
    """Connect to a cluster; returns None if this process is already connected to one."""
    if ray.is_initialized():
        return None
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    local = not os.environ.get("RAY_ADDRESS")
    if local:  # only this process uses it, so it needs no dashboard
        options |= {"address": "local", "include_dashboard": False}
    else:
        options["address"] = "auto"
    connection = _Connection(local=local, **options)
    connection.open()
    if local and not ip_address(ray.util.get_node_ip_address()).is_loopback:
        log.warning(
            "other machines can reach this Ray, because ray was imported too early address=%s",
            ray.util.get_node_ip_address(),
        )
    return connection
