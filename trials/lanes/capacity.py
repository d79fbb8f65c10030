"""Measures how many lanes are useful on this machine."""

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from trials.contract import TrialSpec
from trials.errors import advance_or_raise
from trials.lanes import memory
from trials.lanes.lanes import Lanes
from trials.lanes.step.capture import WORTH
from trials.lanes.step.draws import AHEAD

_GAIN = 1.05  # more lanes count as better if their rate is at least this factor higher
_ROOM = 0.8  # share of the free memory that may be used
_STEPS = {"cpu": 3, "cuda": AHEAD}  # steps per measurement
# Warm-up steps, after which every function is captured. On a GPU the draws of AHEAD steps are
# captured too.
_WARM = {"cpu": 2 * WORTH, "cuda": 2 * WORTH * AHEAD}
_MEASURED = 0.2  # seconds during which steps are timed
_LONG = 0.1  # seconds; for longer steps, the time that capturing saves is negligible
UNREACHED = 1 << 30  # a rung that no trial reaches


def useful_lanes(
    load: Callable[[], "partial[Lanes]"],
    spec: TrialSpec,
    *,
    at_most: int,
    workers: int = 1,
    per_gpu: int = 1,
) -> int:
    """The smallest number of lanes, a power of two, that is about as fast as any larger number.

    It is at most `at_most`, and fits into memory. It is measured by training a few steps of `spec`
    in 1, 2, 4, ... lanes.

    load: loads the data and returns a factory of programs, see `trials.programs.build.programs`.
    workers: number of workers that share this machine, if they train on its CPU.
    per_gpu: number of workers that share a GPU, if they train on one.
    """
    program = load()
    device: torch.device = program.keywords["device"]
    free = memory.left(device) / (per_gpu if device.type == "cuda" else workers)
    before = memory.peak(device, reset=True)
    rates: dict[int, float] = {}

    def rate(lanes: int) -> float:
        """Lane-steps per second; 0 if memory does not suffice for `lanes` lanes."""
        if lanes not in rates:
            # Extrapolated from half as many lanes, because the operating system kills a process
            # that runs out of memory.
            if 2 * (memory.peak(device) - before) > _ROOM * free:
                return 0.0
            rates[lanes] = 0.0
        seconds = _seconds(program, spec, lanes)
        rates[lanes] = max(rates[lanes], lanes / seconds if seconds else 0.0)
        return rates[lanes]

    best = smallest_fast_enough(rate, at_most)
    if device.type == "cuda":
        return best
    # Measured twice, because a shared CPU can be slow for seconds at a time.
    return smallest_fast_enough(rate, max(rates, default=1))


def smallest_fast_enough(rate: Callable[[int], float], at_most: int) -> int:
    """The smallest power of two up to `at_most` such that more lanes gain at most 5 % in rate.

    The search ends at a rate of 0, or after two doublings in a row without a gain.
    """
    best, best_rate, lanes = 1, 0.0, 1
    while lanes <= min(at_most, 4 * best):
        measured = rate(lanes)
        if measured == 0:
            break
        if measured > _GAIN * best_rate:
            best, best_rate = lanes, measured
        lanes *= 2
    return best


def _seconds(program: Callable[..., Lanes], spec: TrialSpec, lanes: int) -> float:
    """Seconds of a step with all lanes live; 0 if memory did not suffice."""
    with tempfile.TemporaryDirectory(prefix="fewtune-") as folder:
        try:
            trying = program(lanes=lanes, folder=Path(folder))
            rows_per_pass = trying.rows_per_pass
            for number in range(lanes):
                trying.admit(replace(spec, number=number, rungs=(1, UNREACHED)))
            advance_or_raise(trying)  # the first step allocates
            seconds = step_seconds(trying)
        except RuntimeError as error:
            if not memory.is_shortage(error):
                raise
            return 0.0
    return seconds if trying.rows_per_pass == rows_per_pass else 0.0


def step_seconds(program: Lanes) -> float:
    """Seconds of a step of all live lanes. No lane may reach a rung during the measurement.

    Short steps are captured before they are timed, because a search replays captured steps.
    """
    seconds = _timed(program, 1)
    if seconds >= _LONG:
        return seconds
    _timed(program, _WARM[program.device.type])
    return _least(program)


def _least(trying: Lanes) -> float:
    """Minimum seconds of a step. Other load on the machine only ever makes a step longer."""
    least, end = math.inf, time.perf_counter() + _MEASURED
    while time.perf_counter() < end:
        least = min(least, _timed(trying, _STEPS[trying.device.type]))
    return least


def _timed(trying: Lanes, steps: int) -> float:
    start = time.perf_counter()
    trying.train(steps)
    return (time.perf_counter() - start) / steps
