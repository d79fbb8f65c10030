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
from fewshot.tasks.base import Dataset
from fewshot.tasks.files import existing
from fewshot.tasks.pictures import image_archive, image_folder
from fewshot.tasks.pictures.resizing import Channels, to_inputs
from fewshot.tasks.two_modalities.pairs import errors_of_query, paired
from fewshot.tasks.two_modalities.text_features import errors_of_text, features_of
from fewshot.tasks.two_modalities.titles import titles_of


def load(
    *,
    path: str,
    cache: Path,
    size: int | None = None,
    crop: bool = False,
    channels: Channels | None = None,
    features: Literal["pixels", "encoder"] = "pixels",
    encoder: str | None = None,
    text: str | None = None,
    text_encoder: str | None = None,
    text_width: int | None = None,
    query: str = "image",
) -> Dataset:
    """Images with their labels and other columns, and perhaps with a text for each image.

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

    text: a table with the titles of the images of a folder, see `titles_of` in
        `fewshot.tasks.two_modalities.titles`. The inputs are then (n, i + t + 1) = [image | text |
        presence], see `paired`, with a column `text`. Without it the next three can't be set.
    text_encoder: embeds the texts, such as MiniLM or the CLIP of `encoder`; without one, texts
        become hashed n-grams of `text_width`, by default 512. query: "image" if queries show their
        image only, "both" if they also show their text.

    Raises InputError if something is missing, damaged or of the wrong shape, or if the images need
    more memory than the machine has. Memory is checked before the images are read.
    """
    _check(size, crop, channels)
    _check_features(features, encoder, {"size": size, "crop": crop or None, "channels": channels})
    _check_text(text, text_encoder, text_width, query, size=size, encoder_of_images=encoder)
    place = existing(path, "images.path")
    if not place.is_dir() and place.suffix != ".npz":
        rule = "must be a file that ends in .npz, or a folder."
        raise input_error("images.path", rule, str(place))
    titles = None if text is None else _titles(place, text)
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
    if titles is not None:
        found = features_of(titles, encoder=text_encoder, width=text_width, cache=cache)
        return paired(inputs, titles, found, columns, query=query, contents=contents)
    table = pd.DataFrame(columns, index=pd.RangeIndex(len(inputs)))
    return Dataset(inputs, table, contents=contents)


def _titles(place: Path, text: str) -> list[str]:
    """The title of each image; raises InputError with the errors of the folder and the titles."""
    if not place.is_dir():
        rule = "needs a folder of images, because titles are given by file."
        raise input_error("images.text", rule, str(place))
    details: list[ErrorDetail] = []
    try:
        image_folder.find(place)
    except InputError as error:
        details += error.details
    try:
        titles = titles_of(text, place, image_folder.images_in(place), "images.text")
    except InputError as error:
        details += error.details
    if details:
        raise InputError(details)
    return titles


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


def _check_text(
    text: object,
    encoder: object,
    width: object,
    query: object,
    *,
    size: object,
    encoder_of_images: object,
) -> None:
    details = errors_of_text("images", encoder, width) + errors_of_query("images", query)
    if text is not None and encoder_of_images is None and size is None:
        rule = "is needed with `text`, unless images are embedded by an `encoder`."
        details.append(ErrorDetail("images.size", rule, None, "For example size: 28"))
    if text is None:
        rule = "can be set together with `text` only."
        others = {"text_encoder": encoder, "text_width": width}
        others |= {} if query == "image" else {"query": query}
        details = [
            ErrorDetail(f"images.{name}", rule, value, "Set `text` too, or remove it.")
            for name, value in others.items()
            if value is not None
        ]
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
