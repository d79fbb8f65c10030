"""The executor whose workers are Ray actors, each with CPUs or a share of a GPU."""

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayTaskError

from fewshot.errors.disk import disk_problem
from fewshot.errors.inputs import FewtuneError
from orchestrator.executors.inline import WorkerStates, as_worker_error
from orchestrator.executors.kinds import WorkerKind
from orchestrator.executors.on_ray.connection import join
from orchestrator.executors.on_ray.ray_worker import SIGNS, RayWorker, naming_node
from orchestrator.executors.on_ray.signs import Signs
from trials.contract import Outcome, TrialSpec, Turn

log = logging.getLogger(__name__)

# A worker that got a SIGTERM has this long to end its step; then its trials go on without it.
_SECONDS_TO_HAND_BACK = 4.0
_SECONDS_TO_LOOK = 5.0  # between two looks at the size of the cluster
# How often in a row, without a turn of a worker, Ray is started anew on this machine.
_MAX_RAY_LOSSES = 3


def _called(function: Callable[[], int]) -> int:
    with naming_node():
        return function()


class RayExecutor:
    """The `Executor` whose workers are Ray actors.

    It joins the cluster that RAY_ADDRESS names (Ray sets it inside a Ray job). Without RAY_ADDRESS
    it starts Ray on this machine for the time of the search. A worker that dies is restarted here
    and not by Ray, because Ray would hide that its trials were lost. If a part of the Ray on this
    machine dies, Ray is started anew, and all workers hand back their trials.

    kinds: what the workers need and train. If only a part of the trials can be trained, because the
    nodes for one kind are missing, the others wait.
    lanes: number per worker, or a function that returns it; the function runs with the resources of
    a worker of the first kind.
    worker_timeout: seconds without a sign of life after which a worker is killed and replaced.
    folder, cache: every node must see the same files there.
    If two workers share a GPU, one trains while the other waits for orders. Ray fills one GPU after
    the other.
    """

    def __init__(
        self,
        kinds: Sequence[WorkerKind],
        *,
        lanes: int | Callable[[], int],
        folder: Path,
        cache: Path,
        worker_timeout: float = 120.0,
    ) -> None:
        self._actors: dict[int, Any] = {}
        self._pending: dict[Any, tuple[int, Mapping[str, Outcome]]] = {}
        self._asked: dict[Any, int] = {}  # workers by the call for their next sign of life
        self._leaving: dict[int, float] = {}  # until when each worker may still end its step
        self._absent: set[int] = set()  # workers that take no orders: not started yet, or removed
        self._spawned: dict[int, float] = {}  # when each worker was started
        self._signs = Signs(worker_timeout)
        self._connection, self._ray_losses = join(), 0
        try:
            cluster = ray.cluster_resources()
            self._kinds, self._needs = kinds, [kind.needs(cluster) for kind in kinds]
            self.lanes = lanes if isinstance(lanes, int) else self._ask_worker(lanes)
            self._places = self.lanes, str(folder), str(cache)
            self._follows, self._looked = kinds[0].count is None, time.monotonic()
            self._too_many = False  # more workers than the cluster has room for
            # The number of the kind of each worker.
            self._kind_of = [i for i, kind in enumerate(kinds) for _ in range(kind.count or 1)]
            workers = self._room() if self._follows else len(self._kind_of)
            self._roster = WorkerStates(workers, self.lanes)
            for worker in range(workers):
                self._spawn(worker)
        except BaseException:
            self.close()
            raise

    def _ask_worker(self, lanes: Callable[[], int]) -> int:
        # With `max_calls=1` the process ends after the call and frees its memory.
        task = ray.remote(max_calls=1, **self._needs[0])(_called)
        reference = task.remote(lanes)
        while not ray.wait([reference], timeout=1.0)[0]:
            if part := self._dead_part():
                raise _ray_lost(part)
        try:
            return int(ray.get(reference))
        except RayTaskError as error:
            raise as_worker_error(error.cause, 0) from None

    def _spawn(self, worker: int) -> None:
        self._spawned[worker] = time.monotonic()
        kind, needs = self._kind(worker)
        remote = ray.remote(
            max_restarts=0, max_task_retries=0, concurrency_groups={SIGNS: 1}, **needs
        )
        arguments = worker, kind.recipe, *self._places, kind.cpus
        self._actors[worker] = remote(RayWorker).remote(*arguments)
        self._actors[worker].prepare.remote()
        self._ask(worker, 0.0)

    def _kind(self, worker: int) -> tuple[WorkerKind, Mapping[str, Any]]:
        """The kind of a worker, and what it needs in Ray."""
        kind = 0 if self._follows else self._kind_of[worker]
        return self._kinds[kind], self._needs[kind]

    def _ask(self, worker: int, seconds: float) -> None:
        """Ask for the next sign of life."""
        self._asked[self._actors[worker].sign.remote(seconds)] = worker

    def idle(self) -> Mapping[int, int]:
        return dict(self._roster.idle)

    def workers_for(self, spec: TrialSpec) -> Collection[int]:
        if len(self._kinds) == 1:
            return self._actors.keys()
        fitting = {i for i, kind in enumerate(self._kinds) if kind.may_train(spec)}
        return [worker for worker, kind in enumerate(self._kind_of) if kind in fitting]

    def send_orders(
        self, worker: int, release: Mapping[str, Outcome], admit: Sequence[TrialSpec]
    ) -> None:
        if worker in self._absent and not admit:
            return
        if self._roster.ordered(worker, release, admit):
            reference = self._actors[worker].turn.remote(dict(release), list(admit))
            self._pending[reference] = (worker, release)

    def _room(self) -> int:
        """The number of workers that the living nodes have room for, at least one."""
        needs = self._needs[0]
        share = {"CPU": needs["num_cpus"], "GPU": needs["num_gpus"], **needs.get("resources", {})}
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        rooms = (
            min(int(node.get(name, 0) / part) for name, part in share.items() if part)
            for node in nodes
        )
        return max(1, sum(rooms))

    def _follow_cluster(self) -> None:
        """Start workers on nodes that have come; note whether there are too many workers."""
        if not self._follows or time.monotonic() - self._looked < _SECONDS_TO_LOOK:
            return
        self._looked = time.monotonic()
        room = self._room()
        self._too_many = len(self._actors) > room
        new = [worker for worker in range(room) if worker not in self._actors]
        for worker in new[: room - len(self._actors)]:
            log.info("worker_added worker=%d", worker)
            self._spawn(worker)
            self._absent.add(worker)  # until it has started

    def _dead_part(self) -> str:
        """The name of a part of Ray that has died, if this process started Ray; else empty."""
        return "" if self._connection is None else self._connection.dead_part()

    def _start_anew(self, part: str) -> Turn:
        """Replace a Ray of which a part has died. In the returned turn, all trials are returned."""
        self._ray_losses += 1
        if self._ray_losses > _MAX_RAY_LOSSES:
            raise _ray_lost(part)
        log.warning("ray_lost part=%s; starting Ray anew", part)
        assert self._connection is not None, "a cluster that others started is not watched"
        releasing = dict(self._pending.values())
        self._pending, self._asked, self._leaving = {}, {}, {}
        workers, self._actors = list(self._actors), {}  # if Ray does not start, there are none
        keys: list[str] = []
        for worker in workers:
            self._signs.forget(worker)
            if worker not in self._absent:
                keys += self._roster.lost(worker, releasing.get(worker, {})).lost
        self._connection.close()
        self._connection = join()
        for worker in workers:
            self._spawn(worker)
        return Turn(worker=min(self._roster.idle), returned=tuple(sorted(keys)), free=self.lanes)

    def turn(self) -> Turn | None:
        if part := self._dead_part():
            return self._start_anew(part)
        until = time.monotonic() + 1.0
        self._follow_cluster()
        if turn := self._turn_without_worker():
            return turn
        while (left := until - time.monotonic()) > 0:
            ready, _ = ray.wait([*self._pending, *self._asked], num_returns=1, timeout=left)
            if ready and ready[0] in self._pending:
                return self._turn_of(ready[0])
            for reference in ready:
                self._hear(reference)
        return None

    def _turn_without_worker(self) -> Turn | None:
        """The turn of one worker that is silent, or that must stop and needs too long for it."""
        if self._asked:
            ready, _ = ray.wait([*self._asked], num_returns=len(self._asked), timeout=0)
            for reference in ready:
                self._hear(reference)
        for worker in self._signs.silent():
            cause = f"no sign of life for {self._signs.timeout:g} s (search.worker_timeout)"
            turn = self._lose(worker, cause)
            if turn.lost:
                return turn
        for worker, until in self._leaving.items():
            if time.monotonic() >= until:
                return self._hand_back(Turn(worker=worker))
        return self._turn_not_started()

    def _turn_not_started(self) -> Turn | None:
        """Take its trials from a worker that does not start, if other workers can train them.

        Perhaps its node is gone, and no other has room for it. It goes on waiting for one.
        """
        since = time.monotonic() - self._signs.timeout
        waiting = [
            worker
            for worker in {worker for worker, _ in self._pending.values()}
            if not self._signs.knows(worker) and (self._too_many or self._spawned[worker] < since)
        ]
        if not waiting or not any(map(self._signs.knows, self._actors)):
            return None
        worker = waiting[0]
        turn = self._hand_back(Turn(worker=worker))
        log.warning(
            "worker_waits worker=%d its %d trials go to other workers, as it has not started; it "
            "needs %s",
            *(worker, len(turn.returned), self._kind(worker)[1]),
        )
        self._roster.remove(worker)
        self._absent.add(worker)
        return replace(turn, free=0)

    def _turn_of(self, reference: Any) -> Turn:
        worker, _ = self._pending[reference]
        try:
            turn: Turn = ray.get(reference)
        except RayActorError as error:
            if disk_problem(error):  # a full disk would kill the next worker too
                raise
            if part := self._dead_part():
                return self._start_anew(part)
            if worker in self._leaving:
                return self._hand_back(Turn(worker=worker))
            return self._lose(worker, str(error).splitlines()[0])
        except RayTaskError as error:  # its own text has the whole traceback twice
            raise as_worker_error(error.cause, worker) from None
        if worker in self._leaving:
            return self._hand_back(turn)
        del self._pending[reference]
        self._roster.finish_turn(turn)
        self._ray_losses = 0
        return turn

    def _hear(self, reference: Any) -> None:
        """Note a sign of life, and ask for the next one."""
        worker = self._asked.pop(reference)
        try:
            must_stop = ray.get(reference)
        except ActorUnavailableError:  # perhaps only for a moment: it is silent until it answers
            self._ask(worker, self._signs.interval)
        except RayActorError as error:
            # The error of its turn says the same; `turn` looks for dead parts of Ray.
            if self._is_busy(worker) or self._dead_part():
                return
            if disk_problem(error):
                raise
            self._lose(worker, str(error).splitlines()[0])
        else:
            self._signs.heard(worker)
            if worker in self._absent:  # it has started at last
                self._absent.remove(worker)
                self._roster.add(worker)
            if not must_stop:
                self._ask(worker, self._signs.interval)
                return
            log.warning("worker_must_stop worker=%d", worker)
            self._leaving[worker] = time.monotonic() + _SECONDS_TO_HAND_BACK
            if not self._is_busy(worker):
                self._replace(worker)

    def _lose(self, worker: int, cause: str) -> Turn:
        """Replace a worker that has died or is silent, unless the cluster has become too small."""
        turn = self._roster.lost(worker, self._end(worker), cause)
        log.warning("worker_lost worker=%d trials=%d cause=%r", worker, len(turn.lost), cause)
        if self._follows and len(self._actors) >= self._room():
            self._absent.add(worker)
        else:
            self._spawn(worker)
        if worker in self._absent:
            self._roster.remove(worker)
            turn = replace(turn, free=0)
        return turn

    def _hand_back(self, turn: Turn) -> Turn:
        """Replace a worker that must stop, after its last turn."""
        return self._roster.handed_back(turn, self._replace(turn.worker))

    def _replace(self, worker: int) -> Mapping[str, Outcome]:
        """End a worker and start a new one; returns the trials that it was to release."""
        release = self._end(worker)
        self._spawn(worker)
        return release

    def _end(self, worker: int) -> Mapping[str, Outcome]:
        """End a worker; returns the trials that it was to release."""
        ray.kill(self._actors.pop(worker))  # Ray kills a stopped process after 5 s
        release: Mapping[str, Outcome] = {}
        for reference, (of, orders) in list(self._pending.items()):
            if of == worker:
                release = orders
                del self._pending[reference]
        self._asked = {reference: of for reference, of in self._asked.items() if of != worker}
        self._leaving.pop(worker, None)
        self._signs.forget(worker)
        return release

    def _is_busy(self, worker: int) -> bool:
        return any(of == worker for of, _ in self._pending.values())

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
