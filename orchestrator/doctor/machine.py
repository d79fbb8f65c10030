"""Findings about one machine: libraries, GPU, memory, cores, disk, data. Nothing is changed.

The functions also run on workers, so they take and return plain values.
"""

import fcntl
import importlib.metadata
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from fewshot.errors.inputs import InputError
from fewshot.machine import available_memory, gigabytes
from fewshot.models.pretrained import encoder as encoders
from orchestrator.doctor.finding import Finding, ok, problem, warning

LIBRARIES = ("torch", "ray", "optuna", "mlflow", "transformers")
# Bytes: with less, a search will hardly end; with less than the second, it may not.
_LEAST_DISK, _LITTLE_DISK = 200 * 2**20, 2 * 2**30
_LEAST_MEMORY, _LITTLE_MEMORY = 500 * 2**20, 2 * 2**30


def findings_of_machine(home: Path, data: str, read: Sequence[str]) -> list[Finding]:
    """All findings about this machine.

    home: the folder of all searches, which need not exist. data: the value of FEWTUNE_DATA, or "".
    read: the encoders that the config names, with absolute paths.
    """
    return [
        *_versions(),
        _gpu(),
        _memory(),
        _cores(),
        *_home(home),
        *_data(data),
        *(_encoder(name) for name in read),
    ]


def _versions() -> Iterator[Finding]:
    """Python and the libraries, compared with the ranges that the package declares."""
    about = importlib.metadata.metadata("fewtune")
    python = platform.python_version()
    yield _version("python", python, SpecifierSet(about["Requires-Python"] or ""))
    declared = map(Requirement, importlib.metadata.requires("fewtune") or ())
    ranges = {each.name: each.specifier for each in declared if each.marker is None}
    for name in LIBRARIES:
        allowed = ranges.get(name, SpecifierSet())
        try:
            yield _version(name, importlib.metadata.version(name), allowed)
        except importlib.metadata.PackageNotFoundError:
            yield problem(name, "is not installed.", f"pip install '{name}{allowed}'")


def _version(name: str, found: str, allowed: SpecifierSet) -> Finding:
    if allowed.contains(found.partition("+")[0], prereleases=True):
        return ok(name, f"{found} (supported: {allowed or 'any'})")
    remedy = f"pip install '{name}{allowed}'" if name != "python" else f"Use Python {allowed}."
    return problem(name, f"{found} is not supported; supported: {allowed}.", remedy)


def _gpu() -> Finding:
    if torch.cuda.is_available():
        cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        named = ", ".join(f"{card.name} with {gigabytes(card.total_memory)}" for card in cards)
        return ok("gpu", f"{len(cards)}: {named}; CUDA {torch.version.cuda}")
    if Path("/dev/nvidia0").exists():
        remedy = "Install a build of PyTorch for CUDA, see pytorch.org, or update the driver."
        return warning("gpu", "there is one, but PyTorch can't use it.", remedy)
    return ok("gpu", "none; searches run on the CPU")


def _memory() -> Finding:
    left = available_memory()
    text = f"{gigabytes(left)} available"
    remedy = "End other programs, or use fewer search.lanes or search.workers."
    if left < _LEAST_MEMORY:
        return problem("memory", f"{text}; a worker alone takes about 0.5 GB.", remedy)
    return warning("memory", f"{text}.", remedy) if left < _LITTLE_MEMORY else ok("memory", text)


def _cores() -> Finding:
    # A container may be restricted to some of the cores.
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    return ok("cores", f"{usable} usable of {os.cpu_count()}; OMP_NUM_THREADS {threads}")


def _home(home: Path) -> Iterator[Finding]:
    """Whether files can be written and locked in the home, and the free space."""
    place = next(each for each in (home, *home.parents) if each.exists())
    where = str(home) if place == home else f"{home} (will be created)"
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"fewtune")
            file.flush()
            os.fsync(file.fileno())
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                remedy = "Use a folder on a file system with locks: `--home DIR`."
                yield problem("locks", f"{place} has no file locks: {error.strerror}.", remedy)
            else:
                yield ok("locks", f"files in {place} can be locked")
    except OSError as error:
        remedy = "Give this user write permission, or choose a different place: `--home DIR`."
        yield problem("home", f"{where} can't be written: {error.strerror}.", remedy)
    else:
        yield ok("home", f"{where} can be written")
        yield _disk(place)


def _disk(place: Path) -> Finding:
    free = shutil.disk_usage(place).free
    text = f"{gigabytes(free)} free at {place}"
    remedy = "Free some space there, or use `--home DIR`."
    if free < _LEAST_DISK:
        return problem("disk", f"{text}.", remedy)
    return warning("disk", f"{text}.", remedy) if free < _LITTLE_DISK else ok("disk", text)


def _data(data: str) -> Iterator[Finding]:
    if not data:
        yield ok("FEWTUNE_DATA", "not set; only configs that name it need it")
    elif Path(data).expanduser().is_dir():
        yield ok("FEWTUNE_DATA", data)
    else:
        remedy = "Set it to the folder of the datasets, on every machine of a cluster."
        yield problem("FEWTUNE_DATA", f"{data} is not a folder.", remedy)


def _encoder(name: str) -> Finding:
    what = f"encoder {name}"
    if encoders.is_hub_id(name):  # `folder` would download it
        from huggingface_hub import try_to_load_from_cache

        if isinstance(try_to_load_from_cache(name, "config.json"), str):
            return ok(what, "in the cache of the Hugging Face Hub")
        remedy = f"Without internet access, run `hf download {name}` on a machine that has it."
        return warning(what, "is not in the cache; a search will download it.", remedy)
    try:
        return ok(what, str(encoders.folder(name)))
    except InputError as error:
        (detail,) = error.details
        return problem(what, detail.rule, detail.remedy)
