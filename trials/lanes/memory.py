"""Memory of the machine, or of its accelerator."""

import ctypes
import platform
import resource
import sys
from pathlib import Path

import torch

from fewshot.machine import available_memory

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


# The C library that allocates torch's tensors on the CPU; None if it is not glibc.
_GLIBC = ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


def keep_freed() -> None:
    """Make this process keep freed memory for its next tensors.

    By default glibc returns large blocks to the system at once. Each training step would then map,
    clear and unmap the pages of its tensors again.
    """
    if _GLIBC is not None:
        _GLIBC.mallopt(_M_MMAP_MAX, 0)
        _GLIBC.mallopt(_M_TRIM_THRESHOLD, -1)


def is_shortage(error: RuntimeError) -> bool:
    """Whether the error says that memory for a tensor could not be allocated."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def left(device: torch.device) -> float:
    """Free bytes on `device`; infinite if the system does not report them."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return available_memory()


def peak(device: torch.device, *, reset: bool = False) -> float:
    """Peak bytes in use on `device`, since the last reset if the system supports resets.

    reset: start a new measurement first, and return freed memory to the system.
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
