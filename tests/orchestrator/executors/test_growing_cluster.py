"""`workers: auto` on a cluster whose nodes come and go. All nodes are on this machine."""

import time

import pytest

from tests.orchestrator.executors.test_executors import case, wait

__all__ = ["case"]  # a fixture
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture
def grown(tmp_path_factory):
    """A cluster with a head that has no room for a worker, and one node that has."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    made = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False},
    )
    made.first = made.add_node(num_cpus=1, wait=True)
    ray.init(address=made.address, log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


def until(condition, executor, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        assert executor.turn() is None


def test_workers_follow_the_size_of_the_cluster(case, tmp_path, grown):
    from orchestrator.executors.ray_actors import RayExecutor

    executor = RayExecutor(
        case.recipe,
        lanes=1,
        folder=tmp_path / "runs",
        cache=tmp_path / "cache",
        workers=None,
        worker_timeout=60.0,
    )
    try:
        assert executor.idle() == {0: 1}
        second = grown.add_node(num_cpus=1)
        until(lambda: len(executor.idle()) == 2, executor)
        spec = case.spec(0, rungs=(1, 200_000))
        executor.send_orders(1, {}, [spec])
        assert [report.step for report in wait(executor).reports] == [1]
        executor.send_orders(1, {}, [])
        grown.remove_node(second, allow_graceful=False)
        turn = wait(executor)
        assert turn.lost == (spec.key,)
        assert turn.free == 0, "there is no room for a worker in its place"
        executor.send_orders(1, {}, [])  # as the loop does after each turn
        assert executor.idle() == {0: 1}
    finally:
        executor.close()
