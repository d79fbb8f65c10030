"""How many lanes are of use: as many as still speed training up, and as memory has room for."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import torch

from trials import memory
from trials.build import programs
from trials.capture import WORTH
from trials.contract import Recipe, TrialSpec
from trials.lanes import Lanes

_GAIN = 1.1  # by which more lanes must be faster than the best so far
_ROOM = 0.8  # share of the free memory that may be used
_STEPS = 3
_LONG = 0.1  # seconds of a step beside which what capturing saves is nothing


def useful_lanes(
    recipe: Recipe,
    spec: TrialSpec,
    *,
    at_most: int,
    cache: Path,
    workers: int = 1,
    threads: int = 1,
) -> int:
    """A power of two up to `at_most`, found by training a few steps of `spec` in 1, 2, 4, .. lanes.

    workers: how many are to share this machine, if they train on its CPU.
    threads: of each.
    """
    program = programs(recipe, cache, threads=threads)
    device: torch.device = program.keywords["device"]
    free = memory.left(device) / (1 if device.type == "cuda" else workers)
    before = memory.peak(device, reset=True)

    def rate(lanes: int) -> float:
        """Lane-steps a second; 0 if there is not the memory for so many lanes."""
        # As measured with half of them: a system that runs out of memory kills the process.
        if 2 * (memory.peak(device) - before) > _ROOM * free:
            return 0.0
        seconds = _seconds(program, spec, lanes)
        return lanes / seconds if seconds else 0.0

    return knee(rate, at_most)


def knee(rate: Callable[[int], float], at_most: int) -> int:
    """The smallest power of two up to `at_most` that no larger one beats by a tenth.

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
    # The first step allocates; a short one is measured once it is captured, as it will be.
    rungs = (1, 2, 2 + WORTH, 2 + WORTH + _STEPS, 2 + WORTH + 2 * _STEPS)
    with tempfile.TemporaryDirectory(prefix="fewtune-") as folder:
        try:
            trying = program(lanes=lanes, folder=Path(folder))
            for number in range(lanes):
                trying.admit(replace(spec, number=number, rungs=rungs))
            ends = [trying.advance()[0].seconds for _ in rungs[:2]]
            long = ends[1] - ends[0] > _LONG
            ends += [] if long else [trying.advance()[0].seconds for _ in rungs[2:]]
        except RuntimeError as error:
            if not memory.is_shortage(error):
                raise
            return 0.0
    if trying.rows_per_pass < lanes:
        return 0.0
    return ends[1] - ends[0] if long else min(b - a for a, b in pairwise(ends[2:])) / _STEPS
