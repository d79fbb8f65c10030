"""Runs and measures an ONNX model on one CPU thread."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, "np.ndarray[Any, Any]"]
_REPEATS, _WARM_UP = 100, 10


@dataclass(frozen=True)
class Measured:
    """Size in bytes, and seconds of one CPU thread for one example (median).

    The seconds are CPU time, so that other processes on the machine do not change them.
    """

    size: int
    seconds: float


def session(path: Path) -> Any:
    """An ONNX Runtime session with one thread on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(path: Path, drawn: Arrays) -> "np.ndarray[Any, Any]":
    """The outputs for all drawn inputs, (n, ..), in batches of a hundred."""
    opened, n = session(path), len(next(iter(drawn.values())))
    parts = [
        opened.run(None, {name: value[i : i + 100] for name, value in drawn.items()})[0]
        for i in range(0, n, 100)
    ]
    return np.concatenate(parts)


def measure(path: Path, one: Arrays) -> Measured:
    """Size and time of a model on the inputs `one` of one example."""
    opened = session(path)

    return Measured(path.stat().st_size, _seconds(lambda: opened.run(None, one)))


def _seconds(run: Callable[[], object]) -> float:
    for _ in range(_WARM_UP):
        run()
    taken = []
    for _ in range(_REPEATS):
        start = time.process_time()
        run()
        taken.append(time.process_time() - start)
    return float(np.median(taken))
