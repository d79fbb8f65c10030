"""Greyscale images from a NumPy archive or from a folder per class."""

import hashlib
import json
import math
import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from fewshot.errors.inputs import input_error
from fewshot.machine import check_room
from fewshot.tasks.base import Dataset
from fewshot.tasks.files import existing, write_atomically

Array: TypeAlias = npt.NDArray[Any]

_ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"})
_GREY_MODES = ("1", "L")
_CHUNK = 4096  # most images that are resized at once
_PIXELS = 1 << 26  # most pixels that are resized at once
_SMALLER = "Set `size`: with `size: 84` images are scaled down to 84 x 84 pixels."
_SHOWN = 5
_GREY_ONLY = "Only greyscale images are supported: convert them, for example to Pillow's mode 'L'."


def load(*, path: str, cache: Path, size: int | None = None) -> Dataset:
    """Greyscale images with their labels and other columns.

    inputs: (n, size, size) float32 in [0, 1]; (n, h, w) if `size` is None.

    path: `~` and environment variables are expanded, as in
        `${FEWTUNE_DATA}/omniglot/omniglot28.npz`. It is one of:

    - An archive `.npz` without pickled arrays: `images` (n, h, w) or (n, h, w, 1) uint8. Every
      other array of length n is a column. If there is an array `NAME_names`, it replaces the
      indices in column `NAME` by names. An array `NAME_REST` with one value per distinct value of
      column `NAME` becomes a column `NAME_REST`; `NAME` must then be an integer index.
    - A folder `class/*.png`: column `label`. Or `group/class/*.png`: columns `group`, and `label`
      as `group/class`. The images are stored in `cache` until a file changes.

    size: at least 1 pixel. Other shapes are resized by area averaging, without regard to their
        aspect ratio.

    Raises InputError if something is missing, damaged, in colour or of the wrong shape, or if the
    images need more memory than the machine has. Memory is checked before the images are read.
    """
    if size is not None and (type(size) is not int or size < 1):
        raise input_error("images.size", "must be a whole number of at least 1.", size)
    place = existing(path, "images.path")
    if place.is_dir():
        return _from_folder(place, cache, size)
    if place.suffix == ".npz":
        return _from_archive(place, size)
    raise input_error("images.path", "must be a file that ends in .npz, or a folder.", str(place))


def area_average(images: Tensor, size: int) -> Tensor:
    """Resize images (n, h, w) uint8 to (n, size, size) float32 in [0, 1] by area averaging."""
    rows = _shares(images.shape[1], size)
    columns = _shares(images.shape[2], size)
    chunk = min(_CHUNK, max(1, _PIXELS // (images.shape[1] * images.shape[2])))
    parts = [rows @ part.float() @ columns.T for part in torch.split(images, chunk)]
    return torch.cat(parts).div_(255).clamp_(0, 1)


def _shares(n: int, size: int) -> Tensor:
    """(size, n): the share of each of n pixels in each of `size` equal intervals."""
    edges = torch.arange(size + 1, dtype=torch.float64) * n / size
    pixel = torch.arange(n, dtype=torch.float64)
    low = torch.maximum(edges[:-1, None], pixel)
    high = torch.minimum(edges[1:, None], pixel + 1)
    return ((high - low).clamp_(min=0) * size / n).float()


def _dataset(images: Array, columns: Mapping[str, Array], size: int | None) -> Dataset:
    pixels = torch.from_numpy(np.ascontiguousarray(images))
    if size is None or pixels.shape[1:] == (size, size):
        inputs = pixels.float().div_(255)
    else:
        inputs = area_average(pixels, size)
    return Dataset(inputs, pd.DataFrame(dict(columns), index=pd.RangeIndex(len(inputs))))


def _from_archive(path: Path, size: int | None) -> Dataset:
    _check_archive(path, size)
    arrays = _read_archive(path)
    if "images" not in arrays:
        raise input_error(
            str(path), "must have an array `images`.", None, f"It has {', '.join(arrays)}."
        )
    images = arrays.pop("images")
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    shape = f"{images.dtype} {images.shape}"
    if images.ndim == 4:
        raise input_error(f"{path}:images", "must be greyscale.", shape, _GREY_ONLY)
    if images.ndim != 3 or images.dtype != np.uint8 or 0 in images.shape:
        raise input_error(
            f"{path}:images", "must be uint8 of shape (n, h, w), none of them 0.", shape
        )
    return _dataset(images, _columns(path, arrays, len(images)), size)


def _check_room(pixels: float, kept: float, path: Path) -> None:
    """Raises InputError if memory is too small for `pixels` pixels, `kept` after resizing.

    A pixel that is read takes 1 byte. A pixel after resizing takes 1 byte and a float32.
    """
    check_room(pixels + 5 * kept, "images.size", f"to read {path.name}", _SMALLER)


def _check_archive(path: Path, size: int | None) -> None:
    """Raises InputError if the images, by the shape in the archive's header, exceed memory."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open("images.npy") as file:
            major, _ = np.lib.format.read_magic(file)
            read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
            shape, _, _ = read[major](file)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # reading reports it
        return
    side = None if size is None or len(shape) < 3 else size * size
    pixels = float(math.prod(shape))
    _check_room(pixels, pixels if side is None else shape[0] * side, path)


def _read_archive(path: Path) -> dict[str, Array]:
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


def _from_folder(folder: Path, cache: Path, size: int | None) -> Dataset:
    files = [
        file
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in _ENDINGS and not file.name.startswith(".")
    ]
    depths = {len(file.relative_to(folder).parts) for file in files}
    if depths not in ({2}, {3}):
        raise input_error(
            str(folder),
            "must have its images in class/*.png, or all of them in group/class/*.png.",
            f"{len(files)} images, {' or '.join(map(str, sorted(depths))) or 'none'} levels deep",
        )
    labels = [file.parent.relative_to(folder).as_posix() for file in files]
    columns = {"label": np.array(labels, dtype=object)}
    if depths == {3}:
        columns["group"] = np.array([label.split("/")[0] for label in labels], dtype=object)
    kept = cache / f"images-{_key(folder, files, size)}.npz"
    try:
        with np.load(kept, allow_pickle=False) as archive:
            images = archive["images"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # absent or damaged
        images = _read_images(folder, files, size)
        write_atomically(kept, partial(np.savez_compressed, images=images))
    return _dataset(images, columns, None)


def _key(folder: Path, files: list[Path], size: int | None) -> str:
    """Twelve hexadecimal digits of a hash of the files' names, sizes and times."""
    stats = [(file.relative_to(folder).as_posix(), file.stat()) for file in files]
    text = json.dumps(
        [str(folder), size, [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]]
    )
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _check_folder(folder: Path, files: list[Path], size: int | None) -> None:
    """Raises InputError if the images, by the sizes in the files' headers, exceed memory."""
    kept = float(len(files) * (size or 0) ** 2)
    if size is None:
        for file in files:
            try:
                with Image.open(file) as image:
                    kept += image.width * image.height
            except (UnidentifiedImageError, OSError, SyntaxError):  # reading reports it
                continue
    _check_room(kept, kept, folder)


def _read_images(folder: Path, files: list[Path], size: int | None) -> Array:
    """(n, size, size) uint8; (n, h, w) if `size` is None."""
    _check_folder(folder, files, size)
    images: list[Array] = []
    bad: list[str] = []
    for file in files:
        try:
            with Image.open(file) as image:
                if image.mode not in _GREY_MODES:
                    bad.append(f"{file.relative_to(folder)} (mode {image.mode})")
                    continue
                pixels = np.asarray(image.convert("L"))
        except (UnidentifiedImageError, OSError, SyntaxError):
            bad.append(f"{file.relative_to(folder)} (damaged)")
            continue
        if size is not None:
            small = area_average(torch.from_numpy(pixels.copy())[None], size)[0]
            pixels = small.mul_(255).round_().byte().numpy()
        images.append(pixels)
    if bad:
        more = f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        raise input_error(
            str(folder),
            "must have greyscale images only.",
            ", ".join(bad[:_SHOWN]) + more,
            _GREY_ONLY,
        )
    shapes = sorted({image.shape for image in images})
    if len(shapes) > 1:
        raise input_error(
            str(folder),
            "must have images of the same shape if `size` is not set.",
            shapes[:_SHOWN],
            "Set `size`.",
        )
    return np.stack(images)
