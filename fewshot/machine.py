"""How much memory this machine has left, and refusing what would not fit into it."""

from pathlib import Path

from fewshot.errors.inputs import input_error

_CGROUPS = Path("/sys/fs/cgroup")
# Of each version of control groups: its limit, what is used, and the part of it that are files'
# pages, which the system gives up when it needs them.
_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def available_memory() -> float:
    """Bytes that processes of this machine may still take; infinite where it does not tell."""
    known = Path("/proc/meminfo")
    if not known.exists():
        return float("inf")
    rows = dict(row.split(":") for row in known.read_text().splitlines())
    free = 1024.0 * int(rows["MemAvailable"].split()[0])
    return min([free, *(_left_of(group) for group in _groups())])


def check_room(needed: float, path: str, what: str, remedy: str) -> None:
    """Raises InputError where `what` needs more bytes than the machine has left."""
    left = available_memory()
    if needed > left:
        rule = f"needs about {gigabytes(needed)} of memory {what}, and this machine has "
        raise input_error(path, f"{rule}{gigabytes(left)} left.", None, remedy)


def gigabytes(n: float) -> str:
    """A number of bytes in words."""
    return f"{n / 2**30:.1f} GB" if n >= 2**30 / 10 else f"{n / 2**20:.1f} MB"


def _groups() -> list[Path]:
    """The folders of the control groups that this process is in, with all that hold them."""
    own = Path("/proc/self/cgroup")
    found = [_CGROUPS, _CGROUPS / "memory"]
    for line in own.read_text().splitlines() if own.exists() else ():
        _, controllers, name = line.split(":", 2)
        if controllers in ("", "memory"):
            place = _CGROUPS / controllers / name.lstrip("/")
            found += [folder for folder in (place, *place.parents) if _CGROUPS in folder.parents]
    return found


def _left_of(group: Path) -> float:
    """What the limit of a control group leaves; infinite where it has none."""
    for limit, used, files in _FILES:
        try:
            most = (group / limit).read_text().strip()
            if most == "max":
                return float("inf")
            rows = dict(row.split() for row in (group / "memory.stat").read_text().splitlines())
            return float(most) - float((group / used).read_text()) + float(rows.get(files, 0))
        except (OSError, ValueError):  # of the other version, or not to be read
            continue
    return float("inf")
