"""How many lanes are of use: as many as still speed training up, and as memory has room for."""

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from trials.contract import TrialSpec
from trials.errors import advanced
from trials.lanes import memory
from trials.lanes.lanes import Lanes
from trials.lanes.step.capture import WORTH
from trials.lanes.step.draws import AHEAD

_GAIN = 1.05  # by which more lanes must be faster than the best so far
_ROOM = 0.8  # share of the free memory that may be used
_STEPS = {"cpu": 3, "cuda": AHEAD}  # that are timed as one
# Before, by which all is captured that ever will be. A GPU has draws captured too, of many steps.
_WARM = {"cpu": 2 * WORTH, "cuda": 2 * WORTH * AHEAD}
_MEASURED = 0.2  # seconds for which steps are timed
_LONG = 0.1  # seconds of a step beside which what capturing saves is nothing
UNREACHED = 1 << 30  # a rung


def useful_lanes(
    load: Callable[[], "partial[Lanes]"],
    spec: TrialSpec,
    *,
    at_most: int,
    workers: int = 1,
    per_gpu: int = 1,
) -> int:
    """A power of two up to `at_most`, found by training a few steps of `spec` in 1, 2, 4, .. lanes.

    load: loads the data and returns what makes programs, see `trials.programs.build.programs`.
    workers: how many are to share this machine, if they train on its CPU.
    per_gpu: how many are to share a GPU, if they train on one.
    """
    program = load()
    device: torch.device = program.keywords["device"]
    free = memory.left(device) / (per_gpu if device.type == "cuda" else workers)
    before = memory.peak(device, reset=True)
    found: dict[int, float] = {}

    def rate(lanes: int) -> float:
        """Lane-steps a second; 0 if there is not the memory for so many lanes."""
        if lanes not in found:
            # As measured with half of them: a system that runs out of memory kills the process.
            if 2 * (memory.peak(device) - before) > _ROOM * free:
                return 0.0
            found[lanes] = 0.0
        seconds = _seconds(program, spec, lanes)
        found[lanes] = max(found[lanes], lanes / seconds if seconds else 0.0)
        return found[lanes]

    best = knee(rate, at_most)
    if device.type == "cuda":
        return best
    # Again, as a CPU that is shared is slow for seconds at a time.
    return knee(rate, max(found, default=1))


def knee(rate: Callable[[int], float], at_most: int) -> int:
    """The smallest power of two up to `at_most` that no larger one beats by a twentieth.

    It ends at a rate of 0, or where two doublings in a row have brought nothing.
    """
    best, best_rate, lanes = 1, 0.0, 1
    while lanes <= min(at_most, 4 * best):
        found = rate(lanes)
        if found == 0:
            break
        if found > _GAIN * best_rate:
            best, best_rate = lanes, found
        lanes *= 2
    return best


def _seconds(program: Callable[..., Lanes], spec: TrialSpec, lanes: int) -> float:
    """Of a step with all lanes live; 0 if memory did not suffice for it."""
    with tempfile.TemporaryDirectory(prefix="fewtune-") as folder:
        try:
            trying = program(lanes=lanes, folder=Path(folder))
            rows_per_pass = trying.rows_per_pass
            for number in range(lanes):
                trying.admit(replace(spec, number=number, rungs=(1, UNREACHED)))
            advanced(trying)  # the first step allocates
            seconds = step_seconds(trying)
        except RuntimeError as error:
            if not memory.is_shortage(error):
                raise
            return 0.0
    return seconds if trying.rows_per_pass == rows_per_pass else 0.0


def step_seconds(program: Lanes) -> float:
    """Seconds of a step of all live lanes, whose next rung must not be near.

    As it will be for most of a search: a short one has been captured.
    """
    seconds = _timed(program, 1)
    if seconds >= _LONG:
        return seconds
    _timed(program, _WARM[program.device.type])
    return _least(program)


def _least(trying: Lanes) -> float:
    """Seconds of a step, when the machine does nothing else: it never makes one shorter."""
    found, end = math.inf, time.perf_counter() + _MEASURED
    while time.perf_counter() < end:
        found = min(found, _timed(trying, _STEPS[trying.device.type]))
    return found


def _timed(trying: Lanes, steps: int) -> float:
    begun = time.perf_counter()
    trying.train(steps)
    return (time.perf_counter() - begun) / steps
