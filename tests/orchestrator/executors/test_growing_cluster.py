"""`workers: auto` on a cluster whose nodes come and go. All nodes are on this machine."""

import os
import time
from contextlib import contextmanager

import psutil
import pytest

from orchestrator.executors.kinds import WorkerKind
from tests.orchestrator.executors.nodes import added, cluster_of
from tests.orchestrator.executors.test_executors import case, wait
from tests.orchestrator.executors.test_liveness import process_of
from tests.trials.conformance import retried

__all__ = ["case"]  # a fixture
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture
def grown():
    """A cluster with a head that has no room for a worker, and one node that has."""
    with cluster_of({}, {"num_cpus": 1}) as made:
        yield made


def until(condition, executor, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        assert executor.turn() is None


@contextmanager
def executing(case, folder, *, timeout):
    from orchestrator.executors.on_ray.ray_actors import RayExecutor

    executor = RayExecutor(
        [WorkerKind(recipe=case.recipe, count=None)],
        lanes=1,
        folder=folder / "runs",
        cache=folder / "cache",
        worker_timeout=timeout,
    )
    try:
        yield executor
    finally:
        executor.close()


def on_this_machine(seconds):
    """The time in which a quiet machine does what takes it `seconds`."""
    return seconds * max(1.0, 2 * os.getloadavg()[0] / (os.cpu_count() or 1))


def test_workers_follow_the_size_of_the_cluster(case, tmp_path, grown):
    with executing(case, tmp_path, timeout=60.0) as executor:
        assert executor.idle() == {0: 1}
        second = added(grown, num_cpus=1)
        until(lambda: len(executor.idle()) == 2, executor, on_this_machine(20))
        spec = case.spec(0, rungs=(1, 200_000))
        executor.send_orders(1, {}, [spec])
        assert [report.step for report in wait(executor).reports] == [1]
        executor.send_orders(1, {}, [])
        grown.remove_node(second, allow_graceful=False)
        turn = wait(executor)
        # Its process may end a turn before it dies. As long as the node is not known to be lost, a
        # worker is started in its place, which dies on it too or waits.
        while turn.free or not (turn.lost or turn.returned):
            executor.send_orders(1, {}, [retried(spec)] if turn.free else [])
            turn = wait(executor)
        assert (turn.lost or turn.returned) == (spec.key,)
        assert turn.free == 0, "there is no room for a worker in its place"
        executor.send_orders(1, {}, [])  # as the loop does after each turn
        assert executor.idle() == {0: 1}


def test_a_node_whose_raylet_hangs_goes_on_working(case, tmp_path, grown):
    added(grown, num_cpus=1)
    specs = [case.spec(number, rungs=(1, 8)) for number in range(2)]
    with executing(case, tmp_path, timeout=10.0) as executor:
        for worker, spec in enumerate(specs):
            executor.send_orders(worker, {}, [spec])
        assert {wait(executor).worker for _ in specs} == {0, 1}
        raylet = psutil.Process(process_of(executor, 1)).parent()
        assert raylet.name() == "raylet"
        raylet.suspend()
        try:
            executor.send_orders(1, {}, [])
            turn = wait(executor)
            assert [(each.key, each.step) for each in turn.reports] == [(specs[1].key, 8)]
        finally:
            raylet.resume()


def test_the_worker_of_a_node_that_hangs_altogether_is_replaced(case, tmp_path, grown):
    added(grown, num_cpus=1)
    specs = [case.spec(number, rungs=(1, 200_000)) for number in range(2)]
    with executing(case, tmp_path, timeout=10.0) as executor:
        for worker, spec in enumerate(specs):
            executor.send_orders(worker, {}, [spec])
        assert {wait(executor).worker for _ in specs} == {0, 1}
        process = psutil.Process(process_of(executor, 1))
        raylet = process.parent()
        executor.send_orders(1, {}, [])
        for each in (process, raylet):
            each.suspend()
        try:
            turn = wait(executor)
            assert (turn.worker, turn.lost) == (1, (specs[1].key,))
        finally:
            for each in (raylet, process):
                if each.is_running():
                    each.resume()
