"""The available memory of this machine."""

from pathlib import Path

from fewshot.errors.inputs import input_error

_CGROUPS = Path("/sys/fs/cgroup")
# For each version of control groups: the limit, the usage, and the part of the usage that is file
# cache, which the system frees when it needs memory.
_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def available_memory() -> float:
    """Bytes that processes can still allocate; infinite if the system does not report it."""
    known = Path("/proc/meminfo")
    if not known.exists():
        return float("inf")
    rows = dict(row.split(":") for row in known.read_text().splitlines())
    free = 1024.0 * int(rows["MemAvailable"].split()[0])
    return min([free, *(_left_of(group) for group in _groups())])


def check_room(needed: float, path: str, what: str, remedy: str) -> None:
    """Raises InputError if `what` needs more bytes than the machine has available."""
    left = available_memory()
    if needed > left:
        rule = f"needs about {gigabytes(needed)} of memory {what}, and this machine has "
        raise input_error(path, f"{rule}{gigabytes(left)} left.", None, remedy)


def gigabytes(n: float) -> str:
    """A number of bytes as text, in GB or MB."""
    return f"{n / 2**30:.1f} GB" if n >= 2**30 / 10 else f"{n / 2**20:.1f} MB"


def _groups() -> list[Path]:
    """The folders of the control groups of this process, and of all their parent groups."""
    own = Path("/proc/self/cgroup")
    groups = [_CGROUPS, _CGROUPS / "memory"]
    for line in own.read_text().splitlines() if own.exists() else ():
        _, controllers, name = line.split(":", 2)
        if controllers in ("", "memory"):
            place = _CGROUPS / controllers / name.lstrip("/")
            groups += [folder for folder in (place, *place.parents) if _CGROUPS in folder.parents]
    return groups


def _left_of(group: Path) -> float:
    """Bytes below the limit of a control group; infinite if it has no limit."""
    for limit, used, files in _FILES:
        try:
            most = (group / limit).read_text().strip()
            if most == "max":
                return float("inf")
            rows = dict(row.split() for row in (group / "memory.stat").read_text().splitlines())
            return float(most) - float((group / used).read_text()) + float(rows.get(files, 0))
        except (OSError, ValueError):  # files of the other version, or unreadable
            continue
    return float("inf")
