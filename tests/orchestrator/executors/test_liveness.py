"""Workers on Ray that hang, die, or are told to stop. Real signals to real processes."""

import importlib
import logging
import os
import signal
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.config.loading import parse
from orchestrator.config.recipes import recipe_of
from orchestrator.executors.kinds import WorkerKind
from tests.orchestrator import own_loops
from tests.orchestrator.executors.test_executors import case, wait
from tests.trials.conformance import retried
from trials.contract import TrialSpec

__all__ = ["case"]  # a fixture
pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("cluster"),
]

TIMEOUT = 8.0


@contextmanager
def ray_started(**resources):
    """Ray in this process. On a busy machine it may take longer than the 30 s that Ray allows."""
    ray = pytest.importorskip("ray")
    for left in reversed(range(8)):
        try:
            ray.init(
                address="local",
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                **resources,
            )
            break
        except Exception:
            ray.shutdown()
            for process in importlib.import_module("psutil").Process().children(recursive=True):
                process.kill()  # what has started of this Ray
            if not left:
                raise
    try:
        yield
    finally:
        ray.shutdown()


@pytest.fixture(scope="module")
def cluster():
    with ray_started(num_cpus=2, num_gpus=0):
        yield


@contextmanager
def executing(recipe, folder, *, lanes=2, workers=1, timeout=TIMEOUT, cpus_per_worker=1):
    from orchestrator.executors.on_ray.ray_actors import RayExecutor

    executor = RayExecutor(
        [WorkerKind(recipe=recipe, count=workers, cpus=cpus_per_worker, gpus=0)],
        lanes=lanes,
        folder=folder / "runs",
        cache=folder / "cache",
        worker_timeout=timeout,
    )
    try:
        yield executor
    finally:
        executor.close()


def process_of(executor, worker=0):
    import ray

    return ray.get(executor._actors[worker].__ray_call__.remote(lambda self: os.getpid()))


def runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_stopped_worker_is_replaced_and_its_trials_go_on(case, tmp_path, caplog):
    specs = [case.spec(n, rungs=(4, 40)) for n in range(2)]
    with executing(case.recipe, tmp_path) as executor:
        process = process_of(executor)
        executor.send_orders(0, {}, specs)
        before = {report.key: report for report in wait(executor).reports}
        os.kill(process, signal.SIGSTOP)
        executor.send_orders(0, {}, [])
        turn = wait(executor)
        assert turn.lost == tuple(sorted(spec.key for spec in specs))
        assert turn.loss == "no sign of life for 8 s (search.worker_timeout)"
        lines = [line for line in caplog.messages if "worker_lost" in line]
        assert len(lines) == 1
        assert "worker=0 trials=2 cause='no sign of life" in lines[0]
        executor.send_orders(0, {}, [retried(spec) for spec in specs])
        turn = wait(executor)
        assert {report.key: report for report in turn.reports} == before
        assert process_of(executor) != process
        wait_until(lambda: not runs(process))


def test_an_idle_worker_that_is_killed_is_replaced(case, tmp_path):
    with executing(case.recipe, tmp_path) as executor:
        process = process_of(executor)
        os.kill(process, signal.SIGKILL)
        wait_until(lambda: executor.turn() is None and process_of_replaced(executor) != process)
        executor.send_orders(0, {}, [case.spec(0, rungs=(1,))])
        assert [report.step for report in wait(executor).reports] == [1]


def process_of_replaced(executor):
    from ray.exceptions import RayActorError

    try:
        return process_of(executor)
    except RayActorError:
        return None


def own_loop(function: str):
    return recipe_of(parse(own_loops.data(function)))


def own_spec(recipe, number=0, **changes):
    return TrialSpec(
        number=number,
        seed=0,
        recipe=recipe,
        hyperparameters={"rate": 0.1, "depth": 3},
        task_weights={"clean": 1.0, "noise": 0.0},
        **{"rungs": (4,)} | changes,
    )


def test_a_worker_that_works_for_longer_than_the_timeout_is_not_silent(tmp_path):
    recipe = own_loop("rests")
    with executing(recipe, tmp_path, lanes=1, timeout=4.0) as executor:
        executor.send_orders(0, {}, [own_spec(recipe)])
        turn = wait(executor)
        assert turn.lost == ()
        assert [report.step for report in turn.reports] == [4]
        assert turn.reports[0].seconds > 10


@pytest.mark.parametrize("moment", ["training", "idle"])
def test_a_worker_that_must_stop_hands_its_trials_back(case, tmp_path, moment):
    specs = [case.spec(n, rungs=(4, 200_000)) for n in range(2)]
    with executing(case.recipe, tmp_path) as executor:
        process = process_of(executor)
        executor.send_orders(0, {}, specs)
        before = {report.key: report for report in wait(executor).reports}
        if moment == "training":
            executor.send_orders(0, {}, [])
            assert executor.turn() is None, "for a second"
        os.kill(process, signal.SIGTERM)
        if moment == "idle":
            executor.send_orders(0, {}, [])
        turn = wait(executor)
        assert turn.returned == tuple(sorted(spec.key for spec in specs))
        assert (turn.lost, turn.reports, turn.free) == ((), (), 2)
        executor.send_orders(0, {}, [retried(spec) for spec in specs])
        again = wait(executor)
        assert {report.key: report for report in again.reports} == before
        assert process_of(executor) != process
        wait_until(lambda: not runs(process))


def test_the_function_of_a_worker_that_must_stop_ends_with_it(tmp_path):
    recipe = own_loop("rests")
    with executing(recipe, tmp_path, lanes=1) as executor:
        executor.send_orders(0, {}, [own_spec(recipe)])
        pid = tmp_path / "runs" / "search-0000" / "files" / "pid"
        wait_until(lambda: executor.turn() is None and pid.exists() and pid.read_text())
        os.kill(parent_of(process_at(pid)), signal.SIGTERM)
        assert wait(executor).returned == ("search-0000",)
        wait_until(lambda: not runs(process_at(pid)))


def process_at(pid: Path) -> int:
    return int(pid.read_text())


def parent_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def test_trials_of_a_worker_that_does_not_start_go_to_others(case, tmp_path, caplog):
    """Each of two workers needs both cores."""
    specs = {worker: case.spec(worker, rungs=(1,)) for worker in range(2)}
    with executing(case.recipe, tmp_path, lanes=1, workers=2, cpus_per_worker=2) as executor:
        for worker, spec in specs.items():
            executor.send_orders(worker, {}, [spec])
        turns = [wait(executor), wait(executor)]
        (returned,) = [turn for turn in turns if turn.returned]
        (other,) = [turn.worker for turn in turns if turn.reports]
        waiting = returned.worker
        assert returned.returned == (specs[waiting].key,)
        assert (returned.free, returned.lost) == (0, ())
        assert "worker_waits" in caplog.text
        executor.send_orders(waiting, {}, [])  # as the loop does after each turn
        assert executor.idle().keys() == {other}
        executor.send_orders(other, {specs[other].key: "pruned"}, [retried(specs[waiting])])
        turn = wait(executor)
        assert [result.key for result in turn.results] == [specs[other].key]
        assert [report.key for report in turn.reports] == [specs[waiting].key]
        executor.send_orders(other, {specs[waiting].key: "pruned"}, [])
        assert [result.key for result in wait(executor).results] == [specs[waiting].key]
        os.kill(process_of(executor, other), signal.SIGKILL)
        wait_until(lambda: executor.turn() is None and waiting in executor.idle())
