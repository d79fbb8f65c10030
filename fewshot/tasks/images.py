"""Greyscale or colour images from a NumPy archive or from a folder per class."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from fewshot.errors.inputs import ErrorDetail, InputError, input_error
from fewshot.tasks import image_archive, image_folder
from fewshot.tasks.base import Dataset
from fewshot.tasks.files import existing
from fewshot.tasks.resizing import Channels, to_inputs


def load(
    *,
    path: str,
    cache: Path,
    size: int | None = None,
    crop: bool = False,
    channels: Channels | None = None,
) -> Dataset:
    """Images with their labels and other columns.

    inputs: float32 in [0, 1], (n, size, size) in greyscale and (n, 3, size, size) in colour;
        (n, h, w) and (n, 3, h, w) if `size` is None.

    path: `~` and environment variables are expanded, as in
        `${FEWTUNE_DATA}/omniglot/omniglot28.npz`. It is one of:

    - An archive `.npz` without pickled arrays: `images` (n, h, w), (n, h, w, 1) or (n, h, w, 3)
      uint8. Every other array of length n is a column. If there is an array `NAME_names`, it
      replaces the indices in column `NAME` by names. An array `NAME_REST` with one value per
      distinct value of column `NAME` becomes a column `NAME_REST`; `NAME` must then be an integer
      index.
    - A folder `class/*.png`: column `label`. Or `group/class/*.png`: columns `group`, and `label`
      as `group/class`. PNG, JPEG, WebP, GIF, BMP and TIFF can be mixed; if one image is in colour,
      all are. See `image_folder.open_image`. The images are stored in `cache` until a file changes.

    size: at least 1 pixel. Other shapes are resized by area averaging, without regard to their
        aspect ratio.
    crop: keep the aspect ratio: the shorter side is resized to `size`, and the centre is kept.
    channels: 1 for greyscale, 3 for colour; by default as the images are.

    Raises InputError if something is missing, damaged or of the wrong shape, or if the images need
    more memory than the machine has. Memory is checked before the images are read.
    """
    _check(size, crop, channels)
    place = existing(path, "images.path")
    if place.is_dir():
        files, columns = image_folder.find(place)
        images = image_folder.read(place, files, cache, size, crop=crop, channels=channels)
        inputs = to_inputs(torch.from_numpy(images), None)
    elif place.suffix == ".npz":
        images, columns = image_archive.read(place, size, channels)
        own = torch.from_numpy(np.ascontiguousarray(images))
        inputs = to_inputs(own, size, crop=crop, channels=channels)
    else:
        raise input_error(
            "images.path", "must be a file that ends in .npz, or a folder.", str(place)
        )
    return Dataset(inputs, pd.DataFrame(columns, index=pd.RangeIndex(len(inputs))))


def _check(size: object, crop: object, channels: object) -> None:
    details = []
    if size is not None and (type(size) is not int or size < 1):
        rule = "must be a whole number of at least 1."
        details.append(ErrorDetail("images.size", rule, size))
    if type(crop) is not bool:
        details.append(ErrorDetail("images.crop", "must be true or false.", crop))
    elif crop and size is None:
        details.append(ErrorDetail("images.crop", "needs a `size`.", crop, "Set `size` too."))
    if channels is not None and (type(channels) is not int or channels not in (1, 3)):
        rule = "must be 1 (greyscale) or 3 (colour)."
        details.append(ErrorDetail("images.channels", rule, channels))
    if details:
        raise InputError(details)
