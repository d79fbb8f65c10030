"""Reads the examples of a predictor, from files or from Python objects, as inputs of its model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from fewshot.errors.inputs import ErrorDetail, InputError, input_error
from fewshot.models.pretrained import encoder, vision
from fewshot.tasks import table, text
from fewshot.tasks.datasets import load_dataset
from fewshot.tasks.files import existing
from fewshot.tasks.pictures import image_archive, image_folder
from fewshot.tasks.pictures.resizing import to_inputs
from orchestrator.results.predictor.pair_reader import PairReader
from trials.contract import Component


@dataclass(frozen=True, eq=False)
class Examples:
    """n examples before they become inputs of a model.

    rows: n rows, the columns that are known of the examples. values: n texts, images or numbers,
    of which a slice can be taken.
    """

    rows: pd.DataFrame
    values: Any

    def __len__(self) -> int:
        return len(self.rows)


class Reader(Protocol):
    """Reads examples of one kind."""

    def from_file(self, path: str) -> Examples:
        """The examples of a file or folder; raises InputError if they can't be read."""

    def from_values(self, values: Any) -> Examples:
        """The examples in a list, an array or a DataFrame; raises InputError if they don't fit."""

    def inputs(self, values: Any) -> Tensor:
        """Inputs (n, *features) for a slice of the `values` of examples."""


def reader_of(part: Component) -> Reader:
    """The reader for the dataset `part` of a predictor."""
    made = _READERS.get(part.name)
    if part.name == "images" and "text" in part.options:
        return PairReader(part.options, ImageReader(part.options))
    return OtherReader(part) if made is None else made(part.options)


class TextReader:
    """Texts, as embeddings, token ids or hashed n-grams; options as in `fewshot.tasks.text`."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._column = str(options.get("text", "text"))
        self._features = options.get("features", "encoder")
        self._encoder = options.get("encoder")
        self._buckets = int(options.get("buckets", 8192))
        self._max_length = int(options.get("max_length", 64))

    def from_file(self, path: str) -> Examples:
        return Examples(*text.read(path, self._column))

    def from_values(self, values: Any) -> Examples:
        rows = values if isinstance(values, pd.DataFrame) else None
        if rows is not None:
            if self._column not in rows:
                rule = f"must have the column {self._column!r} with the texts."
                raise input_error("inputs", rule, ", ".join(map(str, rows.columns)))
            values = rows[self._column]
        if isinstance(values, str) or not isinstance(values, Sequence | np.ndarray | pd.Series):
            rule = "must be a list of texts, or a DataFrame with a column of texts."
            raise input_error("inputs", rule, type(values).__name__)
        texts = list(values)
        bad = [i for i, one in enumerate(texts) if not isinstance(one, str) or not one.strip()]
        if bad:
            rule = f"must have a text in every row; there is none in rows {bad[:8]}."
            raise input_error("inputs", rule, texts[bad[0]])
        rows = pd.DataFrame({self._column: texts}) if rows is None else rows
        return Examples(rows, texts)

    def inputs(self, values: Sequence[str]) -> Tensor:
        if self._features == "ngrams":
            return text.ngrams(values, buckets=self._buckets, max_length=self._max_length)
        if self._features == "tokens":
            return encoder.tokenize_with(self.tokenizer, values, self._max_length)
        found = encoder.embed_with(self.tokenizer, self._model, values, self._max_length)
        return found.float()

    @cached_property
    def tokenizer(self) -> Any:
        return encoder.load_tokenizer(encoder.folder(str(self._encoder)))

    @cached_property
    def _model(self) -> Any:
        return encoder.load_model(encoder.folder(str(self._encoder)))


class ImageReader:
    """Images, as pixels or embeddings; options as in `fewshot.tasks.pictures.images`."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._size, self._crop = options.get("size"), bool(options.get("crop", False))
        self._channels = options.get("channels")
        self._encoder = options.get("encoder")

    def from_file(self, path: str) -> Examples:
        place = existing(path, "--data")
        if place.suffix == ".npz":
            keep = self._size if self._encoder is None else 1
            images, columns = image_archive.read(place, keep, self._channels)
            return Examples(pd.DataFrame(columns, index=pd.RangeIndex(len(images))), images)
        files = image_folder.images_in(place) if place.is_dir() else [place]
        if not files:
            rule = "must be a folder with images, an image, or an .npz of images."
            endings = ", ".join(sorted(image_folder.ENDINGS))
            raise input_error("--data", rule, str(place), f"Images end in {endings}.")
        if not place.is_dir() and place.suffix.lower() not in image_folder.ENDINGS:
            rule = "must be a folder with images, an image, or an .npz of images."
            raise input_error("--data", rule, str(place))
        start = place if place.is_dir() else place.parent
        names = [file.relative_to(start) for file in files]
        rows = pd.DataFrame({"file": [name.as_posix() for name in names]})
        if all(len(name.parts) > 1 for name in names):
            rows["label"] = [name.parent.as_posix() for name in names]
        return Examples(rows, files)

    def from_values(self, values: Any) -> Examples:
        several = isinstance(values, list | tuple) or getattr(values, "ndim", 0) in (3, 4)
        alone = isinstance(values, np.ndarray) and values.ndim == 3 and values.shape[2] == 3
        images = [_as_image(one) for one in values] if several and not alone else [None]
        if None in images:
            kind = type(values).__name__
            if isinstance(values, np.ndarray):
                kind = f"{values.dtype} {values.shape}"
            rule = "must be several images: a list of arrays or PIL images, or one array."
            remedy = "Arrays of uint8 have (h, w) or (h, w, 3) for each image."
            raise input_error("inputs", rule, kind, remedy)
        return Examples(pd.DataFrame(index=pd.RangeIndex(len(images))), images)

    def inputs(self, values: Any) -> Tensor:
        of_archive = isinstance(values, np.ndarray)
        if self._encoder is not None:
            images = list(map(Image.fromarray, values)) if of_archive else _opened(values)
            place = encoder.folder(str(self._encoder))
            return vision.embed_with(self._processor, self._model, images, place).float()
        if not of_archive:
            opened = _opened(values)
            channels = self._channels or 3
            mode = "L" if channels == 1 else "RGB"
            pixels = [
                image_folder.resized(image.convert(mode), self._size, crop=self._crop)
                for image in opened
            ]
            if len({each.shape for each in pixels}) > 1:
                rule = "must have images of the same shape; the model has no `size`."
                raise input_error("--data", rule, sorted({each.shape for each in pixels})[:4])
            return to_inputs(torch.from_numpy(np.stack(pixels)), None)
        own = torch.from_numpy(np.array(values))  # a copy, because an archive may be read-only
        return to_inputs(own, self._size, crop=self._crop, channels=self._channels)

    @cached_property
    def _processor(self) -> Any:
        return vision.load_processor(encoder.folder(str(self._encoder)))

    @cached_property
    def _model(self) -> Any:
        return vision.load_model(encoder.folder(str(self._encoder)))


def _as_image(value: Any) -> Image.Image | None:
    """An array of uint8, (h, w) or (h, w, 3), or a PIL image; None if it is neither."""
    if isinstance(value, Image.Image):
        return value
    of_pixels = isinstance(value, np.ndarray) and value.dtype == np.uint8
    if of_pixels and (value.ndim == 2 or (value.ndim == 3 and value.shape[2] == 3)):
        return Image.fromarray(np.ascontiguousarray(value))
    return None


def _opened(values: Sequence[Path | Image.Image]) -> list[Image.Image]:
    """Files or images as images of 8 bits; they are treated in the same way."""
    if values and isinstance(values[0], Image.Image):
        return [image_folder.in_8_bits(one) for one in values if isinstance(one, Image.Image)]
    return image_folder.open_all([one for one in values if isinstance(one, Path)])


class TableReader:
    """Columns of a table, as features; options as in `fewshot.tasks.table`."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = dict(options)
        self._names = [str(name) for name in options["features"]]
        # Arrays have numbers alone, in the order of the columns.
        self._plain = not any(options.get(key) for key in ("categories", "means", "fill"))

    def from_file(self, path: str) -> Examples:
        with TemporaryDirectory(prefix="fewtune-") as cache:
            found = table.load(path=path, cache=Path(cache), **self._options)
        return Examples(found.columns, found.inputs.numpy())

    def from_values(self, values: Any) -> Examples:
        if isinstance(values, pd.DataFrame):
            if missing := [name for name in self._names if name not in values]:
                rule = f"must have the columns {', '.join(missing)}."
                raise input_error("inputs", rule, ", ".join(map(str, values.columns)))
            if not self._plain:
                found = table.from_frame(values.reset_index(drop=True), "inputs", **self._options)
                return Examples(found.columns, found.inputs.numpy())
            rows, values = values, values[self._names].to_numpy()
        else:
            values = np.asarray(values)
            rows = pd.DataFrame(index=pd.RangeIndex(len(values) if values.ndim else 0))
        shaped = values.ndim == 2 and values.shape[1] == len(self._names)
        if not self._plain or not shaped or values.dtype.kind not in "fiub":
            what = "numbers" if self._plain else "a DataFrame of columns"
            rule = f"must be {what} (n, {len(self._names)}): {', '.join(self._names)}."
            raise input_error("inputs", rule, f"{values.dtype} {values.shape}")
        numbers = values.astype(np.float32)
        if not np.isfinite(numbers).all():
            rule = f"must be finite numbers; they are not in {table.rows_of(_bad_rows(numbers))}."
            raise input_error("inputs", rule)
        return Examples(rows, numbers)

    def inputs(self, values: "np.ndarray[Any, Any]") -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values))


class OtherReader:
    """Examples of a user's own dataset, which reads files only."""

    def __init__(self, part: Component) -> None:
        self._part = part

    def from_file(self, path: str) -> Examples:
        with TemporaryDirectory(prefix="fewtune-") as cache:
            options = {**self._part.options, "path": path}
            found = load_dataset(self._part.name, options, Path(cache))
        return Examples(found.columns, found.inputs.numpy())

    def from_values(self, values: Any) -> Examples:
        rule = "must be an array of inputs of the model, or else a file."
        raise input_error("inputs", rule, type(values).__name__)

    def inputs(self, values: "np.ndarray[Any, Any]") -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values))


class ReadyInputs:
    """Arrays that are inputs of the model already."""

    def from_file(self, path: str) -> Examples:
        raise AssertionError("arrays are not files")

    def from_values(self, values: "np.ndarray[Any, Any]") -> Examples:
        return Examples(pd.DataFrame(index=pd.RangeIndex(len(values))), values)

    def inputs(self, values: "np.ndarray[Any, Any]") -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).float()


_READERS: Mapping[str, Any] = {"text": TextReader, "images": ImageReader, "table": TableReader}


def named_by_options(error: InputError, source: str) -> InputError:
    """The error with the option `--data` in place of the path of a dataset's option."""
    details = [
        ErrorDetail("--data" if d.path == f"{source}.path" else d.path, d.rule, d.found, d.remedy)
        for d in error.details
    ]
    return InputError(details)


def _bad_rows(numbers: "np.ndarray[Any, Any]") -> "np.ndarray[Any, np.dtype[np.bool_]]":
    found: np.ndarray[Any, np.dtype[np.bool_]] = ~np.isfinite(numbers).all(1)
    return found
