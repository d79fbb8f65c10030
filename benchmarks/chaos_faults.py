"""What goes wrong in `chaos.py`. Faults are real, and are over when their functions return."""

import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from chaos_search import Events, Supervisor
from chaos_services import Cluster, Service, named, persistently, runs, signalled, sql

from orchestrator.record.home import Home


@dataclass
class World:
    """All that may go wrong. disk: the file system of the home; None if it can't be filled."""

    cluster: Cluster
    postgres: Service
    port: int  # of PostgreSQL
    mlflow: Service
    home: Home
    supervisor: Supervisor
    disk: Path | None
    events: Events
    rng: random.Random

    def seconds(self, low: float, high: float) -> float:
        return self.rng.uniform(low, high)

    def stop(self, processes: list[psutil.Process], seconds: float) -> None:
        """Stop processes for a while."""
        signalled(processes, signal.SIGSTOP)
        self.pause(seconds)
        signalled(processes, signal.SIGCONT)

    @contextmanager
    def closing(self) -> Iterator[None]:
        """If the benchmark is ended, faults that last must start nothing any more."""
        try:
            yield
        except BaseException:
            self.supervisor.complete.set()
            for each in (self.postgres, self.mlflow, self.cluster):
                each.close()
            raise

    def pause(self, seconds: float) -> None:
        """Wait, but not beyond the end of the search."""
        self.supervisor.complete.wait(seconds)


# ---- the driver and its workers -----------------------------------------------------------------


def driver_killed(world: World) -> None:
    world.events.add("driver: kill -9")
    _to_driver(world, signal.SIGKILL)


def driver_told(world: World) -> None:
    world.events.add("driver: SIGTERM")
    _to_driver(world, signal.SIGTERM)


def driver_stopped(world: World) -> None:
    driver = world.supervisor.driver
    if driver is not None:
        with world.events.lasting("driver: SIGSTOP", down=True):
            world.stop([driver], world.seconds(5, 25))


def driver_stopped_for_ever(world: World) -> None:
    """The supervisor must notice it."""
    driver = world.supervisor.driver
    if driver is not None:
        with world.events.lasting("driver: SIGSTOP for ever", down=True):
            _to_driver(world, signal.SIGSTOP)
            while runs(driver) and not world.supervisor.complete.is_set():
                time.sleep(0.5)


def _to_driver(world: World, number: int) -> None:
    if world.supervisor.driver is not None:
        signalled([world.supervisor.driver], number)


def worker_killed(world: World) -> None:
    _to_worker(world, signal.SIGKILL, "kill -9")


def worker_told(world: World) -> None:
    _to_worker(world, signal.SIGTERM, "SIGTERM")


def worker_stopped(world: World) -> None:
    """For ever: the search must notice it."""
    _to_worker(world, signal.SIGSTOP, "SIGSTOP for ever")


def worker_stopped_for_a_while(world: World) -> None:
    worker = _to_worker(world, signal.SIGSTOP, "SIGSTOP")
    world.pause(world.seconds(2, 14))
    if worker is not None:
        signalled([worker], signal.SIGCONT)


def _to_worker(world: World, number: int, words: str) -> psutil.Process | None:
    workers = world.cluster.workers()
    if not workers:
        world.events.add("worker: there is none")
        return None
    chosen = world.rng.choice(workers)
    world.events.add(f"worker: {words}", pid=chosen.pid)
    signalled([chosen], number)
    return chosen


# ---- the cluster --------------------------------------------------------------------------------


def raylet_killed(world: World) -> None:
    _node_lost(world, signal.SIGKILL, "kill -9")


def raylet_told(world: World) -> None:
    _node_lost(world, signal.SIGTERM, "SIGTERM")


def _node_lost(world: World, number: int, words: str) -> None:
    node = world.rng.choice(world.cluster.nodes[1:])
    with world.events.lasting(f"raylet of {node.name}: {words}", down=False):
        _to_part(node, "raylet", number)
        world.pause(world.seconds(0, 10))
        _anew(node)


def raylet_stopped(world: World) -> None:
    node = world.rng.choice(world.cluster.nodes[1:])
    with world.events.lasting(f"raylet of {node.name}: SIGSTOP", down=False):
        raylet = node.part("raylet")
        world.stop([raylet] if raylet else [], world.seconds(5, 60))
        world.pause(2)
        if node.part("raylet") is None:  # it was taken for dead meanwhile
            _anew(node)


def raylet_stopped_for_ever(world: World) -> None:
    """The machine hangs, until somebody starts it anew."""
    node = world.rng.choice(world.cluster.nodes[1:])
    with world.events.lasting(f"raylet of {node.name}: SIGSTOP for ever", down=False):
        _to_part(node, "raylet", signal.SIGSTOP)
        world.pause(world.seconds(20, 60))
        _anew(node)


def node_stopped(world: World) -> None:
    """All of its processes stop, workers too, as if the machine had no network."""
    node = world.rng.choice(world.cluster.nodes[1:])
    with world.events.lasting(f"all of {node.name}: SIGSTOP", down=False):
        world.stop(node.tree(), world.seconds(5, 60))
        world.pause(2)
        if node.part("raylet") is None:
            _anew(node)


def _head_ends(world: World, named: str, part: str, number: signal.Signals, longest: float) -> None:
    """Send a signal to a part of the head, and start the cluster anew after a while."""
    with world.events.lasting(named, down=True):
        _to_part(world.cluster.head, part, number)
        world.pause(world.seconds(0, longest))
        _cluster_anew(world)


def head_killed(world: World) -> None:
    _head_ends(world, "raylet of the head: kill -9", "raylet", signal.SIGKILL, 5)


def gcs_killed(world: World) -> None:
    _head_ends(world, "GCS: kill -9", "gcs_server", signal.SIGKILL, 10)


def gcs_told(world: World) -> None:
    _head_ends(world, "GCS: SIGTERM", "gcs_server", signal.SIGTERM, 10)


def gcs_stopped(world: World) -> None:
    with world.events.lasting("GCS: SIGSTOP", down=True):
        gcs = world.cluster.head.part("gcs_server")
        world.stop([gcs] if gcs else [], world.seconds(3, 30))


def _to_part(node: Service, name: str, number: int) -> None:
    part = node.part(name)
    signalled([part] if part else [], number)


def _anew(node: Service) -> None:
    """As a cluster does with a machine that is gone: another takes its place."""
    node.kill()
    persistently(node)


def _cluster_anew(world: World) -> None:
    """Without its GCS, which forgets all, a cluster is lost."""
    world.cluster.kill()
    world.cluster.start()


# ---- PostgreSQL, MLflow, the disk ---------------------------------------------------------------


def connections_cut(world: World) -> None:
    world.events.add("PostgreSQL: connections cut")
    for _ in range(3):
        sql(
            world.port,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname IS NOT NULL "
            "AND pid <> pg_backend_pid()",
        )
        world.pause(world.seconds(0, 0.5))


def postgres_killed(world: World) -> None:
    _service_lost(world, world.postgres, signal.SIGKILL, "kill -9")


def postgres_told(world: World) -> None:
    _service_lost(world, world.postgres, signal.SIGINT, "SIGINT")  # closes all connections


def postgres_stopped(world: World) -> None:
    _service_stopped(world, world.postgres)


def mlflow_killed(world: World) -> None:
    _service_lost(world, world.mlflow, signal.SIGKILL, "kill -9")


def mlflow_told(world: World) -> None:
    _service_lost(world, world.mlflow, signal.SIGTERM, "SIGTERM")


def mlflow_stopped(world: World) -> None:
    _service_stopped(world, world.mlflow)


def _service_lost(world: World, service: Service, number: int, words: str) -> None:
    with world.events.lasting(f"{service.name}: {words}", down=service is world.postgres):
        processes = service.tree()
        signalled(processes if number == signal.SIGKILL else processes[:1], number)
        world.pause(world.seconds(0, 15))
        service.kill()
        persistently(service)


def _service_stopped(world: World, service: Service) -> None:
    with world.events.lasting(f"{service.name}: SIGSTOP", down=service is world.postgres):
        world.stop(service.tree(), world.seconds(3, 25))


def senders_killed(world: World) -> None:
    """The helpers of the driver that write to MLflow, if there are any now."""
    driver = world.supervisor.driver
    helpers = [] if driver is None or not runs(driver) else driver.children()
    world.events.add("helpers of the driver: kill -9", names=[named(each) for each in helpers])
    signalled(helpers, signal.SIGKILL)


def disk_full(world: World) -> None:
    if world.disk is None:
        return
    with world.events.lasting("disk: full", down=True):
        filling = world.disk / "fill"
        try:
            with filling.open("wb", buffering=0) as file:
                while file.write(bytes(1 << 16)):
                    pass
        except OSError:
            pass
        world.pause(world.seconds(3, 12))
        filling.unlink()


Fault = Callable[[World], None]
_ALL: tuple[Fault, ...] = (
    *(driver_killed, driver_told, driver_stopped, driver_stopped_for_ever),
    *(worker_killed, worker_told, worker_stopped, worker_stopped_for_a_while),
    *(raylet_killed, raylet_told, raylet_stopped, raylet_stopped_for_ever, node_stopped),
    *(head_killed, gcs_killed, gcs_told, gcs_stopped),
    *(connections_cut, postgres_killed, postgres_told, postgres_stopped),
    *(mlflow_killed, mlflow_told, mlflow_stopped, senders_killed, disk_full),
)
FAULTS: Mapping[str, Fault] = {fault.__name__: fault for fault in _ALL}
_SAME = dict.fromkeys(("raylet", "node", "head", "gcs"), "cluster") | {"connections": "postgres"}


def target(fault: str) -> str:
    """What a fault is done to: two faults of the same do not happen at the same time."""
    first = fault.partition("_")[0]
    return _SAME.get(first, first)
