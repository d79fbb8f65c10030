"""Which GPUs the workers get. Ray is told of four GPUs that need not exist."""

import time

import pytest

from orchestrator.config.loading import parse
from orchestrator.config.recipes import recipe_of
from orchestrator.executors.kinds import WorkerKind
from tests.orchestrator import own_loops
from tests.orchestrator.executors.test_executors import wait
from tests.orchestrator.executors.test_liveness import own_spec, ray_started

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module", autouse=True)
def four_gpus():
    with ray_started(num_cpus=4, num_gpus=4):
        yield


@pytest.fixture(autouse=True)
def all_gpus_free(four_gpus):
    """Ray frees the GPUs of the workers of the test before some time after `ray.kill`."""
    import ray

    deadline = time.monotonic() + 300
    while ray.available_resources().get("GPU") != 4.0:
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("share", "seen"),
    [
        (2, [[0, 1], [2, 3]]),
        (0.5, [[0], [0], [1]]),
        (None, [[0], [1]]),
    ],
)
def test_workers_fill_one_gpu_after_the_other(tmp_path, share, seen):
    """Each trial of an own loop sees the GPUs of its worker, and no others."""
    from orchestrator.executors.on_ray.ray_actors import RayExecutor

    recipe = recipe_of(parse(own_loops.data("sees_gpus")))
    executor = RayExecutor(
        [WorkerKind(recipe=recipe, count=len(seen), gpus=share)],
        lanes=1,
        folder=tmp_path / "runs",
        cache=tmp_path / "cache",
    )
    try:
        for worker in range(len(seen)):
            executor.send_orders(worker, {}, [own_spec(recipe, number=worker)])
        for _ in seen:
            assert [report.step for report in wait(executor).reports] == [4]
    finally:
        executor.close()
    found = [path.read_text() for path in (tmp_path / "runs").glob("*/files/gpus")]
    assert sorted(sorted(map(int, text.split(","))) for text in found) == seen
