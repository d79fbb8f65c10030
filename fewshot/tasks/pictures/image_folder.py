"""Reads images of any mode and size from a folder per class."""

import hashlib
import json
import zipfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps

from fewshot.errors.inputs import ErrorDetail, InputError, input_error
from fewshot.tasks.files import write_atomically
from fewshot.tasks.pictures.image_archive import check_memory
from fewshot.tasks.pictures.resizing import Channels, to_inputs

Array: TypeAlias = npt.NDArray[Any]

ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"})
_GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "F"})  # and those of 16 bits
_CACHE_VERSION = 2  # increase it when the same files give other pixels
_SHOWN = 5
_REMEDY = "Convert or remove these files."
# `UnidentifiedImageError` is an OSError; Pillow raises SyntaxError for some damaged files.
_UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


def find(folder: Path) -> tuple[list[Path], dict[str, Array]]:
    """The image files of a folder in order of name, and their columns `label` and `group`.

    Raises InputError unless all images are in class/*.png, or all of them in group/class/*.png.
    """
    files = images_in(folder)
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
    return files, columns


def images_in(folder: Path) -> list[Path]:
    """All image files in a folder and the folders in it, in order of name."""
    return [
        file
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in ENDINGS and not file.name.startswith(".")
    ]


def open_all(files: Sequence[Path]) -> list[Image.Image]:
    """`open_image` for each file; raises InputError with the names of all that can't be used."""
    images: list[Image.Image] = []
    details: list[ErrorDetail] = []
    for file in files:
        try:
            images.append(open_or_refuse(file))
        except InputError as error:
            details += error.details
    if details:
        raise InputError(details)
    return images


def read(
    folder: Path,
    files: Sequence[Path],
    cache: Path,
    size: int | None,
    *,
    crop: bool,
    channels: Channels | None,
) -> Array:
    """Images (n, h, w) or (n, h, w, 3) uint8, from `cache` unless a file has changed.

    size, crop, channels: see `fewshot.tasks.pictures.images.load`.

    Raises InputError with the names of the files that cannot be used.
    """
    kept = cache / f"images-{_key(folder, files, [size, crop, channels])}.npz"
    try:
        with np.load(kept, allow_pickle=False) as archive:
            images: Array = archive["images"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # absent or damaged
        images = _read_images(folder, files, size, crop, channels)
        write_atomically(kept, partial(np.savez_compressed, images=images))
    return images


def open_image(file: Path) -> Image.Image:
    """The first image of a file, of mode L (greyscale) or RGB.

    It is turned as its EXIF orientation says. Transparent pixels are shown on white. Pixels of 16
    bits are rounded to 8 bits.

    Raises an error of `_UNREADABLE` if the file is damaged or has pixels of more than 16 bits.
    """
    with Image.open(file) as image:
        return in_8_bits(image)


def in_8_bits(image: Image.Image) -> Image.Image:
    """An image as `open_image` returns it; raises ValueError if it has more than 16 bits."""
    upright = ImageOps.exif_transpose(image)
    grey = _is_grey(upright.mode)
    if upright.mode.startswith("I;16") or (upright.mode == "I" and image.format == "PNG"):
        return Image.fromarray(np.rint(np.asarray(upright) / 257).clip(0, 255).astype(np.uint8))
    if upright.mode in ("I", "F"):
        raise ValueError(f"mode {upright.mode}: pixels of more than 16 bits")
    if upright.has_transparency_data:
        white = Image.new("RGBA", upright.size, "white")
        upright = Image.alpha_composite(white, upright.convert("RGBA"))
    return upright.convert("L" if grey else "RGB")


def open_or_refuse(file: Path) -> Image.Image:
    """`open_image`, with an InputError that names the file if it cannot be used."""
    try:
        return open_image(file)
    except _UNREADABLE as error:
        rule = f"must be an image that can be read, of at most 16 bits: {error}"
        raise input_error(str(file), rule, None, _REMEDY) from error


def _is_grey(mode: str) -> bool:
    return mode in _GREY_MODES or mode.startswith("I;16")


def _key(folder: Path, files: Sequence[Path], options: Sequence[object]) -> str:
    """Twelve hexadecimal digits of a hash of the options and the files' names, sizes and times."""
    stats = [(file.relative_to(folder).as_posix(), file.stat()) for file in files]
    rows = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    text = json.dumps([_CACHE_VERSION, str(folder), *options, rows])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _headers(files: Sequence[Path]) -> tuple[bool, int]:
    """Whether an image is in colour, and the number of pixels of all images.

    Only the headers of the files are read. Damaged files are reported when they are read.
    """
    colour, pixels = False, 0
    for file in files:
        try:
            with Image.open(file) as image:
                colour |= not _is_grey(image.mode)
                pixels += image.width * image.height
        except _UNREADABLE:
            continue
    return colour, pixels


def _read_images(
    folder: Path, files: Sequence[Path], size: int | None, crop: bool, channels: Channels | None
) -> Array:
    """(n, h, w) or (n, h, w, 3) uint8: in colour if one of the images is."""
    colour, pixels = _headers(files)
    channels = channels or (3 if colour else 1)
    kept = float(channels * (pixels if size is None else len(files) * size**2))
    check_memory(kept, kept, folder)
    images: list[Array] = []
    bad: list[str] = []
    for file in files:
        try:
            image = open_image(file)
        except _UNREADABLE as error:
            reason = str(error) if str(error).startswith("mode ") else "damaged"
            bad.append(f"{file.relative_to(folder)} ({reason})")
            continue
        images.append(resized(image.convert("L" if channels == 1 else "RGB"), size, crop=crop))
    if bad:
        more = f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        rule = "must have images that can be read, of at most 16 bits."
        raise input_error(str(folder), rule, ", ".join(bad[:_SHOWN]) + more, _REMEDY)
    shapes = sorted({image.shape[:2] for image in images})
    if len(shapes) > 1:
        raise input_error(
            str(folder),
            "must have images of the same shape if `size` is not set.",
            shapes[:_SHOWN],
            "Set `size`.",
        )
    return np.stack(images)


def resized(image: Image.Image, size: int | None, *, crop: bool) -> Array:
    """The pixels (h, w) or (h, w, 3) uint8 of an image of mode L or RGB after resizing."""
    pixels = np.asarray(image)
    if size is None:
        return pixels
    scaled = to_inputs(torch.from_numpy(pixels.copy())[None], size, crop=crop)[0]
    rounded: Array = scaled.mul_(255).round_().byte().numpy()
    return rounded if rounded.ndim == 2 else np.moveaxis(rounded, 0, -1)
