"""Helpers for the files of datasets."""

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
    """The existing file or folder at `path`; `~` and `${VARIABLE}` are expanded.

    where: the name of the option with the path, for messages.

    Raises InputError if a variable is not set, or if there is no such file. In the latter case the
    message lists the content of the nearest folder that exists.
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
            "must be an existing file or folder.",
            str(place),
            f"{nearest} has {_listing(nearest)}.",
        )
    return place


def distinct_columns(names: Iterable[str], path: Path) -> None:
    """Raises InputError if two columns have the same name, because readers keep only one."""
    counts = Counter(names)
    twice = [name for name, n in counts.items() if n > 1 and name]
    if twice:
        rule = "must not have two columns with the same name."
        raise input_error(str(path), rule, ", ".join(twice), "Rename or remove one of them.")


def csv_columns(path: Path) -> list[str]:
    """The column names in the first line of a .csv or .csv.gz file, unchanged."""
    first = pd.read_csv(path, header=None, nrows=1, dtype=str, keep_default_na=False)
    return [str(name) for name in first.iloc[0]]


def parquet_columns(path: Path) -> list[str]:
    """The names of the columns of a .parquet file."""
    return [str(name) for name in pyarrow.parquet.read_schema(path).names]


def _listing(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    more = [f"{len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    return ", ".join(names[:_SHOWN] + more) or "no files"


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8 to `path` atomically: the file is complete or absent."""

    def write(file: BinaryIO) -> None:
        file.write(text.encode())

    write_atomically(path, write)


def write_atomically(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Let `write` fill a file that appears at `path` atomically: complete or not at all.

    Missing folders are created. With several writers the last one wins, and readers always see a
    complete file. If `write` raises, no file is left behind.
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
