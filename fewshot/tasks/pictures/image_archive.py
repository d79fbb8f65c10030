"""Reads images and their columns from a NumPy archive."""

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fewshot.errors.inputs import input_error
from fewshot.machine import check_room
from fewshot.tasks.pictures.resizing import Channels

Array: TypeAlias = npt.NDArray[Any]

SMALLER = "Set `size`: with `size: 84` images are scaled down to 84 x 84 pixels."
_SHAPES = "must be uint8 of shape (n, h, w), (n, h, w, 1) or (n, h, w, 3), no dimension 0."


def read(path: Path, size: int | None, channels: Channels | None) -> tuple[Array, dict[str, Array]]:
    """Images (n, h, w) or (n, h, w, 3) uint8, and the columns (n,) by name.

    size, channels: of the inputs that the images will become; only the memory depends on them.

    Raises InputError if the archive or one of its arrays cannot be used, or if the images need
    more memory than the machine has.
    """
    _check_memory(path, size, channels)
    arrays = _arrays(path)
    if "images" not in arrays:
        raise input_error(
            str(path), "must have an array `images`.", None, f"It has {', '.join(arrays)}."
        )
    images = arrays.pop("images")
    shape = f"{images.dtype} {images.shape}"
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    if images.ndim == 4 and images.shape[3] != 3:
        remedy = "Put the channels last, and leave out a channel of transparency."
        raise input_error(f"{path}:images", _SHAPES, shape, remedy)
    if images.ndim not in (3, 4) or images.dtype != np.uint8 or 0 in images.shape:
        raise input_error(f"{path}:images", _SHAPES, shape)
    return images, _columns(path, arrays, len(images))


def check_memory(numbers: float, kept: float, path: Path) -> None:
    """Raises InputError if memory is too small for `numbers` pixels, `kept` after resizing.

    Each channel of a pixel counts. A number that is read takes 1 byte. A number after resizing
    takes 1 byte and a float32.
    """
    check_room(numbers + 5 * kept, "images.size", f"to read {path.name}", SMALLER)


def _check_memory(path: Path, size: int | None, channels: Channels | None) -> None:
    """Raises InputError if the images, by the shape in the archive's header, exceed memory."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open("images.npy") as file:
            major, _ = np.lib.format.read_magic(file)
            read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
            shape, _, _ = read[major](file)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # reading reports it
        return
    numbers = float(math.prod(shape))
    if len(shape) < 3:
        return
    kept = math.prod(shape[:3]) if size is None else shape[0] * size * size
    check_memory(numbers, float(kept * (channels or math.prod(shape[3:]))), path)


def _arrays(path: Path) -> dict[str, Array]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise input_error(
            str(path),
            "must be an archive of np.savez without pickled arrays.",
            str(error),
            "Write it again, with names in arrays of strings instead of objects.",
        ) from error


def _columns(path: Path, arrays: Mapping[str, Array], n: int) -> dict[str, Array]:
    names = {name for name in arrays if name.endswith("_names") and _described(name) in arrays}
    indices = {k: array for k, array in arrays.items() if array.shape == (n,) and k not in names}
    columns = dict(indices)
    for name, array in arrays.items():
        if name in indices:
            continue
        if name in names and _described(name) in indices:
            columns[_described(name)] = _look_up(path, name, array, indices[_described(name)])
            continue
        owner = max((c for c in indices if name.startswith(f"{c}_")), key=len, default=None)
        if owner is None or array.shape != (len(np.unique(indices[owner])),):
            raise input_error(
                f"{path}:{name}",
                f"must have {n} values, one per image, or one per distinct value of a column "
                "whose name it starts with.",
                array.shape,
                f"There are the columns {', '.join(indices) or '(none)'}.",
            )
        columns[name] = _look_up(path, name, array, indices[owner])
    return columns


def _described(name: str) -> str:
    return name.removesuffix("_names")


def _look_up(path: Path, name: str, values: Array, index: Array) -> Array:
    if values.ndim != 1 or index.dtype.kind not in "iu":
        raise input_error(
            f"{path}:{name}",
            "must have one dimension, and the column that it describes must be an integer index.",
            f"{values.dtype} {values.shape}, {index.dtype}",
        )
    if index.min() < 0 or index.max() >= len(values):
        raise input_error(
            f"{path}:{name}",
            f"has {len(values)} values, so the column that it describes must be from 0 to "
            f"{len(values) - 1}.",
            f"{index.min()} to {index.max()}",
        )
    with_inputs: Array = values[index]
    return with_inputs
