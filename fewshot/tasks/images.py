"""Images from a NumPy archive or from a folder per class, as pixels or as embeddings."""

import hashlib
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from fewshot.errors.inputs import ErrorDetail, InputError, input_error
from fewshot.models.pretrained.vision import embed_images
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
    features: Literal["pixels", "encoder"] = "pixels",
    encoder: str | None = None,
) -> Dataset:
    """Images with their labels and other columns.

    inputs: depends on `features`:
        - "pixels": float32 in [0, 1], (n, size, size) in greyscale and (n, 3, size, size) in
          colour; (n, h, w) and (n, 3, h, w) if `size` is None;
        - "encoder": embeddings (n, d) float32 of length 1, see `embed_images` in
          `fewshot.models.pretrained.vision`.

    path: `~` and environment variables are expanded, as in
        `${FEWTUNE_DATA}/omniglot/omniglot28.npz`. It is one of:

    - An archive `.npz` without pickled arrays: `images` (n, h, w), (n, h, w, 1) or (n, h, w, 3)
      uint8. Every other array of length n is a column. If there is an array `NAME_names`, it
      replaces the indices in column `NAME` by names. An array `NAME_REST` with one value per
      distinct value of column `NAME` becomes a column `NAME_REST`; `NAME` must then be an integer
      index.
    - A folder `class/*.png`: column `label`. Or `group/class/*.png`: columns `group`, and `label`
      as `group/class`. PNG, JPEG, WebP, GIF, BMP and TIFF can be mixed; if one image is in colour,
      all are. See `image_folder.open_image`. Pixels are stored in `cache` until a file changes.

    size: at least 1 pixel. Other shapes are resized by area averaging, without regard to their
        aspect ratio.
    crop: keep the aspect ratio: the shorter side is resized to `size`, and the centre is kept.
    channels: 1 for greyscale, 3 for colour; by default as the images are.
    encoder: a vision model; required with `features: encoder`, otherwise not allowed. See `folder`
        in `fewshot.models.pretrained.encoder`. It resizes the images, so `size`, `crop` and
        `channels` are not allowed then.

    Raises InputError if something is missing, damaged or of the wrong shape, or if the images need
    more memory than the machine has. Memory is checked before the images are read.
    """
    _check(size, crop, channels)
    _check_features(features, encoder, {"size": size, "crop": crop or None, "channels": channels})
    place = existing(path, "images.path")
    if not place.is_dir() and place.suffix != ".npz":
        rule = "must be a file that ends in .npz, or a folder."
        raise input_error("images.path", rule, str(place))
    contents = None
    if encoder is not None:
        inputs, columns, contents = _embeddings(place, encoder, cache)
    elif place.is_dir():
        files, columns = image_folder.find(place)
        images = image_folder.read(place, files, cache, size, crop=crop, channels=channels)
        inputs = to_inputs(torch.from_numpy(images), None)
    else:
        images, columns = image_archive.read(place, size, channels)
        own = torch.from_numpy(np.ascontiguousarray(images))
        inputs = to_inputs(own, size, crop=crop, channels=channels)
    table = pd.DataFrame(columns, index=pd.RangeIndex(len(inputs)))
    return Dataset(inputs, table, contents=contents)


def _embeddings(
    place: Path, encoder: str, cache: Path
) -> tuple[Tensor, dict[str, image_archive.Array], tuple[bytes, ...]]:
    """Embeddings (n, d), columns, and a digest of each image."""
    if place.is_dir():
        files, columns = image_folder.find(place)
        contents = tuple(_digest_of_file(file) for file in files)

        def image_of(i: int) -> Image.Image:
            return image_folder.open_or_refuse(files[i])

    else:
        images, columns = image_archive.read(place, 1, None)  # size 1: hardly any pixels are kept
        contents = tuple(hashlib.sha256(row.tobytes()).digest() for row in images)

        def image_of(i: int) -> Image.Image:
            return Image.fromarray(images[i])

    return embed_images(contents, image_of, encoder=encoder, cache=cache), columns, contents


def _digest_of_file(file: Path) -> bytes:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").digest()


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


def _check_features(features: object, encoder: object, sizes: dict[str, object]) -> None:
    """Check the options `features` and `encoder`. sizes: the options that only pixels have."""
    details = []
    if features not in ("pixels", "encoder"):
        details.append(ErrorDetail("images.features", "must be pixels or encoder.", features))
    elif (features == "encoder") != (encoder is not None):
        rule = "must be set with `features: encoder`, and only then."
        remedy = "For example encoder: facebook/dinov2-small, or features: pixels without it."
        details.append(ErrorDetail("images.encoder", rule, encoder, remedy))
    if features == "encoder":
        rule = "can't be set with `features: encoder`: the encoder resizes the images."
        for name, value in sizes.items():
            if value is not None:
                details.append(ErrorDetail(f"images.{name}", rule, value, "Remove it."))
    if details:
        raise InputError(details)
