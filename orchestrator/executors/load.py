"""What a worker uses of its machine: CPU, memory, GPU."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress

import psutil
import torch

# The shortest time between two measurements, in seconds.
INTERVAL = 30.0


class LoadMeter:
    """Measures the load of this process and its children, at most once in `INTERVAL`.

    clock: seconds.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due = self._since = clock()
        self._before = sum(cpu for cpu, _ in _usage())

    def measure(self) -> Mapping[str, float]:
        """The load, by name of the metric; empty if the last measurement was not long ago.

        `cpu_percent` is the mean since the last measurement; 100 is one core. `gpu_memory_gib` and
        `gpu_percent` are of the whole GPU, which other processes may use too. `gpu_percent` needs
        the package nvidia-ml-py.
        """
        now = self._clock()
        if now < self._due or now == self._since:
            return {}
        usage = _usage()
        cpu = sum(cpu for cpu, _ in usage)
        # The CPU time of a child that was killed is not known.
        percent = 100 * max(0.0, cpu - self._before) / (now - self._since)
        self._before, self._since, self._due = cpu, now, now + INTERVAL
        memory = sum(memory for _, memory in usage) / 2**30
        return {"cpu_percent": percent, "memory_gib": memory, **_gpu()}


def _usage() -> list[tuple[float, float]]:
    """CPU seconds and resident bytes of this process and its children."""
    own = psutil.Process()
    found = []
    for process in (own, *own.children(recursive=True)):
        with suppress(psutil.NoSuchProcess), process.oneshot():
            times = process.cpu_times()
            seconds = times.user + times.system + times.children_user + times.children_system
            found.append((seconds, float(process.memory_info().rss)))
    return found


def _gpu() -> Mapping[str, float]:
    """The load of the worker's first GPU; empty if the worker uses none."""
    if not torch.cuda.is_initialized():  # asking would take memory on a GPU that is not used
        return {}
    free, total = torch.cuda.mem_get_info()
    load = {"gpu_memory_gib": (total - free) / 2**30}
    with suppress(ImportError, RuntimeError):  # no nvidia-ml-py, or a driver that does not tell
        load["gpu_percent"] = float(torch.cuda.utilization())
    return load
