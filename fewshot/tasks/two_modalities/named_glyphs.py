"""Drawings of characters with their Unicode names, from the font DejaVu Sans.

One drawing of a new character says little about its other, distorted drawings. Its name says more:
LATIN SMALL LETTER E WITH ACUTE looks like other letters E, and like other letters with an acute. It
says so only to a model that has seen names and drawings of other characters of the same block.
"""

import hashlib
import json
import unicodedata
import zipfile
from collections.abc import Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from fewshot.errors.inputs import ErrorDetail, InputError
from fewshot.tasks import glyphs
from fewshot.tasks.base import Dataset
from fewshot.tasks.files import write_atomically
from fewshot.tasks.pictures.resizing import area_average
from fewshot.tasks.two_modalities.pairs import errors_of_query, paired
from fewshot.tasks.two_modalities.text_features import errors_of_text, features_of

if TYPE_CHECKING:
    from PIL import ImageFont

FONT = "DejaVuSans"
Ranges: TypeAlias = tuple[tuple[int, int], ...]  # the first and the last code point of each
BLOCKS: Mapping[str, Ranges] = MappingProxyType(
    {
        "latin": ((0x41, 0x5A), (0x61, 0x7A), (0xC0, 0x24F), (0x1E00, 0x1EFF)),
        "phonetic": ((0x250, 0x2AF), (0x1D00, 0x1DBF)),
        "greek": ((0x370, 0x3FF), (0x1F00, 0x1FFF)),
        "cyrillic": ((0x400, 0x52F),),
        "arabic": ((0x620, 0x6FF), (0xFB50, 0xFDFF), (0xFE70, 0xFEFF)),
        "canadian_syllabics": ((0x1401, 0x167F),),
        "arrows": ((0x2190, 0x21FF), (0x27F0, 0x27FF), (0x2900, 0x297F), (0x2B00, 0x2BFF)),
        "mathematical": ((0x2200, 0x22FF), (0x27C0, 0x27EF), (0x2980, 0x2AFF)),
        "box_drawing": ((0x2500, 0x259F),),
        "symbols": ((0x25A0, 0x26FF), (0x2701, 0x27BF)),
        "braille": ((0x2800, 0x28FF),),
        "dominoes": ((0x1F030, 0x1F09F),),
    }
)
_FRAMED = frozenset({"box_drawing", "braille"})  # blocks in which the position matters
_KINDS = ("L", "N", "P", "S")  # Unicode general categories of characters that have a drawing
_SPLITS = ("train", "train", "train", "validation", "test")  # shares of the characters
_CACHE_VERSION = 1  # increase it when the drawing code changes


class _Style(NamedTuple):
    """How characters are drawn, see `load`."""

    size: int
    per_character: int
    seed: int
    warp: float
    noise: float


class _Drawn(NamedTuple):
    """All drawings (n, size, size) uint8, with the block and the code point of each, (n,)."""

    images: npt.NDArray[np.uint8]
    block: npt.NDArray[Any]
    character: npt.NDArray[Any]


def load(
    *,
    cache: Path,
    size: int = 14,
    per_character: int = 6,
    seed: int = 0,
    warp: float = 1.5,
    noise: float = 0.5,
    permuted: bool = False,
    text_encoder: str | None = None,
    text_width: int | None = None,
    query: str = "image",
) -> Dataset:
    """Characters of `BLOCKS`, each drawn `per_character` times with a small random affine map.

    inputs: (n, size^2 + t + 1) float32 = [pixels in [0, 1], ink = 1 | features of the name | 1],
        see `paired`.
    columns: `block`; `character`, the Unicode name, also in the column `text`; `split`, by
        character: train (3/5 of them), validation or test.

    size: 4 to 64 pixels. per_character: 1 to 1000. seed: 0 to 2^32 - 1, of the drawings.
    warp: 0 to 4, the strength of the affine map. noise: 0 to 4, the standard deviation of the noise
        of each pixel, in units of the ink; pixels stay in [0, 1].
    permuted: whether each character gets the name of another one of its block and split: a control,
        in which names say nothing.
    text_encoder: embeds the names, see `fewshot.models.pretrained.encoder.folder`; without one,
        names become hashed n-grams of `text_width`, see `fewshot.tasks.two_modalities`.
    query: "image" if queries show their drawing only, "both" if they also show their name.

    Blank characters, and characters that look like an earlier one of their block, are left out.
    Drawings are made once and then read from `cache`.

    Raises InputError with all options that are out of range.
    """
    ranges = (("size", size, 4, 64), ("per_character", per_character, 1, 1000))
    details = [
        ErrorDetail(f"named_glyphs.{name}", f"must be a whole number from {low} to {high}.", value)
        for name, value, low, high in (*ranges, ("seed", seed, 0, 2**32 - 1))
        if type(value) is not int or not low <= value <= high
    ]
    details += [
        ErrorDetail(f"named_glyphs.{name}", "must be a number from 0 to 4.", value)
        for name, value in (("warp", warp), ("noise", noise))
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 4
    ]
    details += errors_of_text("named_glyphs", text_encoder, text_width)
    details += errors_of_query("named_glyphs", query)
    if details:
        raise InputError(details)
    style = _Style(size, per_character, seed, float(warp), float(noise))
    path = cache / f"named-glyphs-{_key(style)}.npz"
    drawn = _read(path)
    if drawn is None:
        drawn = _draw(style)
        write_atomically(path, partial(_write, drawn=drawn))
    points = drawn.character.tolist()
    names = [unicodedata.name(chr(point)) for point in points]
    columns = {
        "block": np.array(list(BLOCKS), dtype=object)[drawn.block],
        "character": names,
        "split": [_split(point) for point in points],
    }
    texts = _permuted(columns, seed) if permuted else names
    features = features_of(texts, encoder=text_encoder, width=text_width, cache=cache)
    pixels = torch.from_numpy(drawn.images).float().div_(255)
    return paired(pixels, texts, features, columns, query=query)


def _split(point: int) -> str:
    """The split of a character; it does not depend on the other characters."""
    digest = hashlib.sha256(str(point).encode()).digest()
    return _SPLITS[int.from_bytes(digest[:4], "big") % len(_SPLITS)]


def _permuted(columns: Mapping[str, Any], seed: int) -> list[str]:
    """For each drawing the name of another character of the same block and split."""
    table = pd.DataFrame(columns)
    others: dict[str, str] = {}
    for _, group in table.groupby(["block", "split"]):
        own = group["character"].unique()
        order = np.random.default_rng(seed).permutation(len(own))
        others |= dict(zip(own[order], own[np.roll(order, 1)], strict=True))
    return [others[name] for name in table["character"]]


def _key(style: _Style) -> str:
    """Twelve hexadecimal digits of a hash of everything that the drawings depend on."""
    versions = (
        _CACHE_VERSION,
        glyphs.CACHE_VERSION,
        version("matplotlib"),
        version("Pillow"),
        unicodedata.unidata_version,
    )
    options = [*style, FONT, dict(BLOCKS), sorted(_FRAMED), glyphs.DRAWING]
    return hashlib.sha256(json.dumps([*options, versions]).encode()).hexdigest()[:12]


def _read(path: Path) -> _Drawn | None:
    """The content of `path`; None if the file is missing or damaged, so that it is drawn again."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return _Drawn(file["images"], file["block"], file["character"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _write(file: BinaryIO, drawn: _Drawn) -> None:
    np.savez(file, images=drawn.images, block=drawn.block, character=drawn.character)


def _draw(style: _Style) -> _Drawn:
    import matplotlib  # takes long, and other searches have no use for it
    from matplotlib.ft2font import FT2Font
    from PIL import ImageFont

    file = str(Path(matplotlib.get_data_path(), "fonts", "ttf", f"{FONT}.ttf"))
    font = ImageFont.truetype(file, glyphs.EM, layout_engine=ImageFont.Layout.BASIC)
    charmap = FT2Font(file).get_charmap()
    images, rows = [], []
    for index, block in enumerate(BLOCKS):
        found = _glyphs(block, font, charmap)
        for point in glyphs.distinct_points({p: {0: glyph} for p, glyph in found.items()}):
            images.append(_drawings(found[point], point, style))
            rows += [(index, point)] * style.per_character
    blocks, points = np.array(rows, dtype=np.int32).T
    return _Drawn(torch.cat(images).mul_(255).round_().byte().numpy(), blocks, points)


def _drawings(glyph: glyphs.Glyph, point: int, style: _Style) -> Tensor:
    """The drawings (n, size, size) of one character, in [0, 1]."""
    rng = np.random.default_rng([style.seed, point])
    warps = [glyphs.random_warp(rng, style.warp) for _ in range(style.per_character)]
    side = style.size * glyphs.OVERSAMPLING
    large = np.stack([glyphs.image_of(glyph, warp, side) for warp in warps])
    clean = area_average(torch.from_numpy(large), style.size)
    noise = rng.normal(0, style.noise, clean.shape).astype(np.float32)
    return (clean + torch.from_numpy(noise)).clamp_(0, 1)


def _glyphs(
    block: str, font: "ImageFont.FreeTypeFont", charmap: Mapping[int, int]
) -> dict[int, glyphs.Glyph]:
    """The glyphs of a block that have a name and are not blank, by code point."""
    found = {
        point: glyph
        for first, last in BLOCKS[block]
        for point in range(first, last + 1)
        if charmap.get(point, 0)
        and unicodedata.category(chr(point)).startswith(_KINDS)
        and unicodedata.name(chr(point), "") != ""
        and (glyph := glyphs.glyph_in(font, chr(point))) is not None
    }
    if block not in _FRAMED:
        return found
    lefts, tops, rights, bottoms = zip(*(glyph.box for glyph in found.values()), strict=True)
    frame = (min(lefts), min(tops), max(rights), max(bottoms))
    return {point: glyphs.Glyph(glyph.ink, glyph.box, frame) for point, glyph in found.items()}
