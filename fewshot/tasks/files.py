"""Files of datasets: users' paths made real, caches that no reader sees half written."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

import pandas as pd
import pyarrow.parquet

from fewshot.errors.disk import naming_path
from fewshot.errors.inputs import input_error

_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_SHOWN = 8


def existing(path: str, where: str) -> Path:
    """The file or folder that `path` leads to, with `~` and `${VARIABLE}` expanded.

    where: the option that has the path, for messages.

    Raises InputError where a variable is not set, or where there is no such file; the message
    then names what lies in the nearest folder that exists.
    """
    if not isinstance(path, str) or not path.strip():
        raise input_error(where, "must be the path of a file or folder.", path)
    unset = [
        name for found in _VARIABLE.findall(path) if (name := "".join(found)) not in os.environ
    ]
    if unset:
        raise input_error(
            where,
            f"needs the environment variable {unset[0]}, which is not set.",
            path,
            f"Set it to the folder of your data: export {unset[0]}=/path/to/data",
        )
    place = Path(os.path.expandvars(path)).expanduser().absolute()
    if not place.exists():
        nearest = next(folder for folder in place.parents if folder.is_dir())
        raise input_error(
            where,
            "must lead to a file or folder that exists.",
            str(place),
            f"{nearest} has {_listing(nearest)}.",
        )
    return place


def distinct_columns(names: Iterable[str], path: Path) -> None:
    """Raises InputError where a table has two columns of one name, of which readers keep one."""
    counts = Counter(names)
    twice = [name for name, n in counts.items() if n > 1 and name]
    if twice:
        rule = "must have no two columns of one name."
        raise input_error(str(path), rule, ", ".join(twice), "Rename one of them, or take it out.")


def csv_columns(path: Path) -> list[str]:
    """The names in the first line of a .csv or .csv.gz file, as they stand there."""
    first = pd.read_csv(path, header=None, nrows=1, dtype=str, keep_default_na=False)
    return [str(name) for name in first.iloc[0]]


def parquet_columns(path: Path) -> list[str]:
    """The names of the columns of a .parquet file."""
    return [str(name) for name in pyarrow.parquet.read_schema(path).names]


def _listing(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    more = [f"{len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    return ", ".join(names[:_SHOWN] + more) or "nothing in it"


def write_text(path: Path, text: str) -> None:
    """Write `text`, as UTF-8, so that it appears at `path` whole or not at all."""

    def write(file: BinaryIO) -> None:
        file.write(text.encode())

    write_atomically(path, write)


def write_atomically(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Have `write` fill a file that appears at `path` whole or not at all.

    Folders are made as needed. Of several writers the last one stands; readers see one of the
    whole files. If `write` raises, nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid4().hex}.part")
    try:
        with naming_path(path), part.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
