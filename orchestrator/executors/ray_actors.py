"""Workers on a Ray cluster: one actor each, with a GPU or a share of one where there are GPUs."""

import gc
import logging
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from fewshot.errors.disk import disk_problem
from orchestrator.executors.inline import Worker, WorkerStates, as_worker_error
from trials.contract import Outcome, Recipe, TrialSpec, Turn
from trials.programs.build import build

log = logging.getLogger(__name__)


class _Actor:
    """A worker, in a process that Ray placed."""

    def __init__(
        self, number: int, recipe: Recipe, lanes: int, folder: str, cache: str, threads: int
    ) -> None:
        self._worker: Worker | Exception
        try:
            program = build(
                recipe, lanes=lanes, folder=Path(folder), cache=Path(cache), threads=threads
            )
            self._worker = Worker(number, program)
        except Exception as error:  # said at the first turn: Ray would tell it as a death
            self._worker = as_worker_error(error, number)
        gc.freeze()  # looking for garbage in all that was imported takes .2 s each time

    def turn(self, release: Mapping[str, Outcome], admit: Sequence[TrialSpec]) -> Turn:
        if isinstance(self._worker, Exception):
            raise self._worker
        return self._worker.turn(release, admit)


def _called(function: Callable[[], int]) -> int:
    return function()


class RayExecutor:
    """The `Executor` whose workers are Ray actors.

    Joins the cluster that RAY_ADDRESS names (as it does inside a Ray job), or else starts one on
    this machine for as long as the search lasts. A worker that dies is started again by us, not by
    Ray, which would hide that its trials were lost.

    lanes: of each worker; or what finds how many, which is run where the first worker will be.
    workers: how many; None for one per GPU of the cluster, or a single one if there is none.
    cpus_per_worker: cores of each, and threads; the small matrices of most recipes want one.
    gpus_per_worker: 0 to 1; None for a GPU of its own where the cluster has any. Of two that share
    one, one can train while the other waits for its orders. Ray fills GPU after GPU.
    folder, cache: must be the same files for every node.
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
        self._connection = _join()
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
        # The process ends with its only call, and gives its memory back.
        task = ray.remote(max_calls=1, **self._share)(_called)
        try:
            return int(ray.get(task.remote(lanes)))
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

    def turn(self) -> Turn | None:
        ready, _ = ray.wait(list(self._pending), num_returns=1, timeout=1.0)
        if not ready:
            return None
        worker, release = self._pending.pop(ready[0])
        try:
            turn: Turn = ray.get(ready[0])
        except RayActorError as error:
            if disk_problem(error):  # a full disk: the next worker would fare no better
                raise
            log.warning("worker lost worker=%d error=%s", worker, str(error).splitlines()[0])
            self._actors[worker] = self._spawn(worker)
            return self._roster.lost(worker, release)
        except RayTaskError as error:  # whose text is the whole traceback, twice
            raise as_worker_error(error.cause, worker) from None
        self._roster.finish_turn(turn)
        return turn

    def close(self) -> None:
        for actor in self._actors.values():
            ray.kill(actor)
        self._actors.clear()
        if self._connection is not None:
            self._connection.close()


class _Connection(threading.Thread):
    """The thread that connects to a cluster, and lives for as long as we are connected.

    Not the main thread, where `ray.init` would replace our handler of SIGTERM. It must not end
    before the cluster: Linux kills what Ray starts with the thread that started it.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(name="ray-connection", daemon=True)
        self._options = options
        self._connected, self._closed = threading.Event(), threading.Event()
        self._error: BaseException | None = None

    def run(self) -> None:
        # What Ray starts inherits this: a terminal that is closed must not end it before us.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        try:
            ray.init(**self._options)
        except BaseException as error:
            self._error = error
        self._connected.set()
        self._closed.wait()

    def open(self) -> None:
        """Connect; returns when that is done, and raises what `ray.init` raises."""
        self.start()
        while not self._connected.wait(0.05):
            _keep_handler()
        _keep_handler()
        if self._error is not None:
            self._closed.set()
            raise self._error

    def close(self) -> None:
        ray.shutdown()
        self._closed.set()


def _keep_handler() -> None:
    """Have Python handle SIGTERM again: Ray's C++ code handles it by aborting the process."""
    if threading.current_thread() is threading.main_thread():
        handler = signal.getsignal(signal.SIGTERM)
        if handler is not None:
            signal.signal(signal.SIGTERM, handler)


def _join() -> _Connection | None:
    """Connect to a cluster; None if this process is connected to one already."""
    if ray.is_initialized():
        return None
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    local = not os.environ.get("RAY_ADDRESS")
    if local:  # only this process talks to it, so it needs no dashboard
        options |= {"address": "local", "include_dashboard": False}
    else:
        options["address"] = "auto"
    connection = _Connection(**options)
    connection.open()
    if local and not ip_address(ray.util.get_node_ip_address()).is_loopback:
        log.warning(
            "other machines can reach this Ray, as it was imported before address=%s",
            ray.util.get_node_ip_address(),
        )
    return connection
