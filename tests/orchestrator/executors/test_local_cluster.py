"""A local Ray whose parts die, or whose driver does. Most tests have programs that stand in for it:
copies of `sleep` with the names of Ray's parts, which `init` starts as Ray does.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from fewshot.errors.inputs import FewtuneError
from orchestrator.executors.on_ray.local_cluster import LocalCluster
from tests.paths import ROOT

SECONDS = 120

# Starts stand-ins for the parts of Ray, says their numbers, and waits to be killed. An agent of the
# raylet loses its environment and its parent, as Ray's agents do.
DRIVER = """
import subprocess, sys, time
from orchestrator.executors.on_ray.local_cluster import LocalCluster
folder, pids = sys.argv[1], []

def init():
    agent = f"env -i {folder}/agent 600 & echo $! > {folder}/agent.pid; exec {folder}/raylet 600"
    for command in (["sh", "-c", agent], [f"{folder}/gcs_server", "600"]):
        pids.append(subprocess.Popen(command).pid)

other = subprocess.Popen(["sleep", "600"])
cluster = LocalCluster(init, lambda: None)
cluster.start()
time.sleep(8)  # long enough for a look at the agent
print(*pids, open(f"{folder}/agent.pid").read().strip(), other.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder of programs that sleep."""
    sleep = shutil.which("sleep")
    assert sleep is not None
    for name in ("gcs_server", "raylet", "agent"):
        shutil.copy(sleep, tmp_path / name)
    return tmp_path


@pytest.fixture
def started() -> Iterator[list["subprocess.Popen[bytes]"]]:
    """Processes that a test has started; they are ended after it."""
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def until_ended(pids: list[int]) -> None:
    deadline = time.monotonic() + SECONDS
    while left := [pid for pid in pids if runs(pid)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


@pytest.mark.slow
def test_a_killed_driver_leaves_no_process_of_ray_behind(programs: Path) -> None:
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(programs)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert driver.stdout is not None
        *of_ray, other = map(int, driver.stdout.readline().split())
        assert all(map(runs, of_ray))
        os.kill(driver.pid, signal.SIGKILL)
        until_ended(of_ray)
        assert runs(other), "what is not of Ray is left alone"
    finally:
        driver.kill()
        driver.wait()
    psutil.Process(other).kill()


@pytest.mark.parametrize("part", ["raylet", "gcs_server"])
def test_a_dead_part_is_named(programs: Path, started, part: str) -> None:
    def init() -> None:
        for name in ("gcs_server", "raylet"):
            started.append(subprocess.Popen([programs / name, "600"]))

    cluster = LocalCluster(init, lambda: None)
    cluster.start()
    try:
        assert cluster.dead_part() == ""
        process = {"gcs_server": started[0], "raylet": started[1]}[part]
        process.kill()
        deadline = time.monotonic() + SECONDS
        while not cluster.dead_part():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert cluster.dead_part() == part
    finally:
        cluster.end()
    assert cluster.dead_part() == "", "a Ray that has been ended has no parts"
    assert not any(runs(each.pid) for each in started)


def test_a_ray_that_does_not_start_is_started_again(programs: Path, started, caplog) -> None:
    def init() -> None:
        started.append(subprocess.Popen([programs / "raylet", "600"]))
        if len(started) < 3:
            raise Exception("The current node timed out during startup. This could happen")

    cluster = LocalCluster(init, lambda: None)
    cluster.start()
    try:
        assert [runs(each.pid) for each in started] == [False, False, True]
        said = [one.getMessage() for one in caplog.records]
        assert [line.split()[:2] for line in said] == [
            ["ray_did_not_start", "starts_left=2"],
            ["ray_did_not_start", "starts_left=1"],
        ]
    finally:
        cluster.end()


def test_a_ray_that_never_starts_is_an_error_of_one_sentence() -> None:
    def init() -> None:
        raise Exception("timed out\nwith more lines")

    with pytest.raises(
        FewtuneError, match=r"Ray can't be started .*timed out.*`--resume`"
    ) as error:
        LocalCluster(init, lambda: None).start()
    assert "more lines" not in str(error.value)


# An executor as a search has it. Says its processes, and goes on when it is told the trial's end.
SEARCHER = """
import dataclasses, json, sys
from pathlib import Path
from typing import Any
from orchestrator.executors.on_ray.local_ray import restrict_ray_to_localhost
from orchestrator.executors.kinds import WorkerKind
from tests.trials.conformance import protonet
restrict_ray_to_localhost()
from orchestrator.executors.on_ray.ray_actors import RayExecutor
import psutil

def turn():
    while (found := executor.turn()) is None:
        pass
    return found

def say(**what):
    print(json.dumps(what), flush=True)

def processes():
    return {each.pid: each.name() for each in psutil.Process().children(recursive=True)}

folder = Path(sys.argv[1])
case = protonet(folder)
kinds = [WorkerKind(recipe=case.recipe)]
executor = RayExecutor(kinds, lanes=2, folder=folder, cache=case.cache)
for attempt, last in enumerate((1_000_000, 1_000_000, 8)):
    spec = dataclasses.replace(case.spec(0, rungs=(4, last)), attempt=attempt)
    executor.send_orders(0, {}, [spec])
    say(steps=[report.step for report in turn().reports], processes=processes())
    if last > 8:
        executor.send_orders(0, {}, [])
        say(returned=turn().returned, idle=dict(executor.idle()))
executor.close()
"""


@pytest.fixture
def searcher(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """In a session of its own, to which the system gives processor time as to any other."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    log = (tmp_path / "said").open("w")
    process = subprocess.Popen(
        [sys.executable, "-c", SEARCHER, str(tmp_path)],
        cwd=ROOT,
        env=env | {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        start_new_session=True,
    )
    yield process
    process.kill()
    process.wait()


def said_by(process: "subprocess.Popen[str]") -> dict[str, Any]:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{"):  # other lines are Ray's: it prints the last words of a raylet
            found: dict[str, Any] = json.loads(line)
            return found
    raise AssertionError(f"it ended with {process.wait()}")


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_ray_is_started_anew_when_a_part_dies(searcher, tmp_path: Path) -> None:
    for part in ("raylet", "gcs_server"):
        before = said_by(searcher)
        assert before["steps"] == [4]
        of_ray = {int(pid): name for pid, name in before["processes"].items()}
        os.kill(next(pid for pid, name in of_ray.items() if name == part), signal.SIGKILL)
        assert said_by(searcher) == {"returned": ["search-0000"], "idle": {"0": 2}}
        assert not any(map(runs, of_ray)), "nothing is left of the Ray before"
    again = said_by(searcher)
    assert again["steps"] == [4], "repeated from the checkpoint"
    assert searcher.wait(200) == 0
    until_ended([int(pid) for pid in again["processes"]])
    log = (tmp_path / "said").read_text()
    assert "Traceback" not in log
    for part in ("raylet", "gcs_server"):
        assert log.count(f"ray_lost part={part}") == 1


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_killed_search_leaves_no_process_of_ray_behind(searcher) -> None:
    of_ray = [int(pid) for pid in said_by(searcher)["processes"]]
    os.kill(searcher.pid, signal.SIGKILL)
    until_ended(of_ray)
