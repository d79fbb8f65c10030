"""Memory of the machine and of its accelerator: how much is left, and how it is kept."""

import ctypes
import platform
import resource
import sys
from pathlib import Path

import torch

from fewshot.machine import available_memory

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


# The library whose `malloc` torch's tensors come from, where we know it.
_GLIBC = ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


def keep_freed() -> None:
    """From now on this process keeps the memory that it frees, for its next tensors.

    glibc gives large blocks back at once, so that each step would have its tensors mapped, cleared
    and unmapped again, page by page.
    """
    if _GLIBC is not None:
        _GLIBC.mallopt(_M_MMAP_MAX, 0)
        _GLIBC.mallopt(_M_TRIM_THRESHOLD, -1)


def is_shortage(error: RuntimeError) -> bool:
    """Whether it says that there was no memory for a tensor."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def left(device: torch.device) -> float:
    """Bytes that are free on `device`; infinite where the system does not tell."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return available_memory()


def peak(device: torch.device, *, reset: bool = False) -> float:
    """Most bytes ever held on `device`; after `reset`, where the system can, most since then.

    A reset gives back what was freed and kept.
    """
    if device.type == "cuda":
        if reset:
            torch.cuda.reset_peak_memory_stats(device)
        return float(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    if status.exists():
        if reset:
            if _GLIBC is not None:
                _GLIBC.malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")
        line = next(row for row in status.read_text().splitlines() if row.startswith("VmHWM"))
        return 1024.0 * int(line.split()[1])
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(most if sys.platform == "darwin" else most * 1024)
