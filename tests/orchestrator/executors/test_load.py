import subprocess
import sys
import time

import pytest
import torch

from orchestrator.executors.load import INTERVAL, LoadMeter

WORK = "import time\nwhile time.process_time() < 1.5: pass\nprint(flush=True)\ninput()"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_the_load_is_measured_at_the_first_turn_and_then_at_intervals(clock):
    meter = LoadMeter(clock=clock)
    measured = []
    for second in range(1, 2 * int(INTERVAL) + 2):
        clock.now = float(second)
        if meter.measure():
            measured.append(second)
    assert measured == [1, 1 + INTERVAL, 1 + 2 * INTERVAL]


def test_the_load_is_the_mean_since_the_last_measurement(clock):
    meter = LoadMeter(clock=clock)
    clock.now = 1.0
    meter.measure()
    began = time.process_time()
    while time.process_time() < began + 0.6:
        pass
    clock.now = 61.0
    assert meter.measure()["cpu_percent"] == pytest.approx(1.0, abs=0.5)  # .6 s in 60 s


def test_children_count_too(clock):
    meter = LoadMeter(clock=clock)
    command = [sys.executable, "-S", "-c", WORK]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        clock.now = 1.0
        load = meter.measure()
        child.stdin.write(b"\n")
    assert load["cpu_percent"] >= 140
    assert load["memory_gib"] < 64


def test_a_process_without_a_gpu_has_no_load_of_one(clock):
    if torch.cuda.is_initialized():
        pytest.skip("this process uses a GPU")
    meter = LoadMeter(clock=clock)
    clock.now = 1.0
    assert meter.measure().keys() == {"cpu_percent", "memory_gib"}
