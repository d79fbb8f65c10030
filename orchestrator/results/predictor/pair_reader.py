"""Reads images for a model that has learned from images and texts; usually images alone."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fewshot.tasks.two_modalities.text_features import WIDTH, features_of
from fewshot.tasks.two_modalities.titles import titles_of

if TYPE_CHECKING:
    from orchestrator.results.predictor.readers import Examples, Reader


class PairReader:
    """Images, and their texts if queries show them and the folder has a table of titles.

    options: those of `fewshot.tasks.pictures.images`, with `text` and `text_width` or
        `text_encoder`.
    images: reads the images. Its values are paired with texts; "" is an image without a text.
    """

    def __init__(self, options: Mapping[str, Any], images: "Reader") -> None:
        self._images, self._table = images, str(options["text"])
        self._shown = options.get("query") == "both"
        self._encoder = options.get("text_encoder")
        self._width = int(options.get("text_width") or WIDTH)

    def from_file(self, path: str) -> "Examples":
        examples = self._images.from_file(path)
        folder = Path(path).expanduser()
        if not self._shown or not (folder / self._table).is_file():
            return examples
        texts = titles_of(self._table, folder.absolute(), examples.values, "--data")
        rows = examples.rows.assign(text=texts)
        return replace(examples, rows=rows, values=list(zip(examples.values, texts, strict=True)))

    def from_values(self, values: Any) -> "Examples":
        return self._images.from_values(values)

    def inputs(self, values: Any) -> Tensor:
        texts = [""] * len(values)
        if isinstance(values, list) and isinstance(values[0], tuple):
            values, texts = map(list, zip(*values, strict=True))
        images = self._images.inputs(values).flatten(1)
        found = torch.zeros(len(texts), self._width)
        if any(texts):
            width = None if self._encoder else self._width
            with TemporaryDirectory(prefix="fewtune-") as cache:
                found = features_of(texts, encoder=self._encoder, width=width, cache=Path(cache))
        presence = torch.tensor([float(bool(text)) for text in texts]).unsqueeze(1)
        return torch.cat([images, found, presence], 1)
