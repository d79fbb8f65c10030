"""Images of the characters of many scripts, rendered with the fonts of matplotlib."""

import hashlib
import json
import logging
import unicodedata
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
import PIL
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fewshot.errors.inputs import ErrorDetail, InputError
from fewshot.tasks.base import Dataset
from fewshot.tasks.files import write_atomically
from fewshot.tasks.pictures.resizing import area_average

logger = logging.getLogger(__name__)

# Fonts. Characters are compared with each other in the first font that has them.
CUTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSans-BoldOblique",
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "DejaVuSansMono-Oblique",
    "DejaVuSansMono-BoldOblique",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-Italic",
    "DejaVuSerif-BoldItalic",
    "STIXGeneral",
    "STIXGeneralBol",
    "STIXGeneralItalic",
    "STIXGeneralBolIta",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """The characters of a script, with their framing.

    ranges: the first and the last code point of each block.
    kinds: the Unicode general categories to keep; a single letter selects all that start with it.
    composed: keep characters that Unicode decomposes, such as letters with an accent.
    framed: draw each character at its position in the common frame of the script, for scripts in
        which position matters. Otherwise each character fills the image.
    """

    ranges: tuple[tuple[int, int], ...]
    kinds: tuple[str, ...] = ("L",)
    composed: bool = False
    framed: bool = False


SCRIPTS: Mapping[str, Script] = MappingProxyType(
    {
        "latin": Script(ranges=((0x41, 0x5A), (0x61, 0x7A), (0xC0, 0x1BF))),
        "greek": Script(ranges=((0x370, 0x3FF),)),
        "cyrillic": Script(ranges=((0x400, 0x52F),)),
        "armenian": Script(ranges=((0x531, 0x587),)),
        "georgian": Script(ranges=((0x10A0, 0x10FF),)),
        "hebrew": Script(ranges=((0x5D0, 0x5EA), (0xFB1D, 0xFB4F)), composed=True),
        "arabic": Script(ranges=((0x620, 0x6FF),), kinds=("L", "Nd"), composed=True),
        "canadian_syllabics": Script(ranges=((0x1401, 0x167F),)),
        "lao": Script(ranges=((0xE80, 0xEFF),), kinds=("L", "Nd"), composed=True),
        "nko": Script(ranges=((0x7C0, 0x7FF),), kinds=("L", "Nd", "Po")),
        "tifinagh": Script(ranges=((0x2D30, 0x2D7F),), composed=True),
        "lisu": Script(ranges=((0xA4D0, 0xA4FF),), kinds=("L", "Po")),
        "braille": Script(ranges=((0x2800, 0x28FF),), kinds=("So",), framed=True),
        "dominoes": Script(ranges=((0x1F030, 0x1F09F),), kinds=("So",)),
        "box_drawing": Script(ranges=((0x2500, 0x257F),), kinds=("So",), framed=True),
        "hexagrams": Script(ranges=((0x4DC0, 0x4DFF),), kinds=("So",)),
        "mathematical": Script(ranges=((0x2200, 0x22FF),), kinds=("Sm",), composed=True),
        "playing_cards": Script(ranges=((0x1F0A0, 0x1F0FF),), kinds=("So",)),
    }
)

# One font size is used for all images; the affine map scales each glyph.
EM = 64  # pixels
_SMALLEST = 0.35  # em; smaller glyphs are not enlarged to fill the image, so a dot stays a dot
_FILL = 0.76  # share of the image's side that the longer side of a glyph fills
OVERSAMPLING = 4
_ALIKE = 0.985  # two characters with at least this correlation are duplicates
_ROTATION = 0.2  # radians
_SCALE = 0.18  # of the logarithm, for each axis
_SHEAR = 0.2
_SHIFT = 0.08  # share of the image's side
DRAWING = (EM, _SMALLEST, _FILL, OVERSAMPLING, _ALIKE, _ROTATION, _SCALE, _SHEAR, _SHIFT)
CACHE_VERSION = 1  # increase it when the drawing code changes

Box: TypeAlias = tuple[int, int, int, int]  # left, top, right, bottom, in pixels from the origin
Array: TypeAlias = npt.NDArray[Any]
Pixels: TypeAlias = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Glyph:
    ink: Image.Image  # greyscale, cropped to `box`
    box: Box  # of the ink
    frame: Box  # the part that fills the image


class _Drawn(NamedTuple):
    """All images (n, size, size) uint8, with script, code point and font of each, (n,)."""

    images: Pixels
    script: Array
    character: Array
    font: Array


def load(*, cache: Path, size: int = 14, per_character: int = 12, seed: int = 0) -> Dataset:
    """Characters of `SCRIPTS`, each drawn `per_character` times with a small random affine map.

    inputs: (n, size, size) float32 in [0, 1], ink = 1; scaled down by area averaging.
    columns: `script`; `character`, a Unicode name that occurs in one script only; `font`, one of
        `CUTS`.

    Each character is drawn with the fonts that have it, in turns, in an order that `seed` shuffles.
    Blank characters, and characters that look like an earlier one of the same script, are left out.
    Images are drawn once and then read from `cache`. Equal arguments and equal versions of
    matplotlib and Pillow give equal images.

    size: 4 to 64 pixels. per_character: 1 to 1000. seed: 0 to 2^32 - 1.

    Raises InputError if an argument is out of range.
    """
    details = [
        ErrorDetail(f"glyphs.{name}", f"must be a whole number from {low} to {high}.", value)
        for name, value, low, high in (
            ("size", size, 4, 64),
            ("per_character", per_character, 1, 1000),
            ("seed", seed, 0, 2**32 - 1),
        )
        if type(value) is not int or not low <= value <= high
    ]
    if details:
        raise InputError(details)
    path = cache / f"glyphs-{_key(size, per_character, seed)}.npz"
    drawn = _read(path)
    if drawn is None:
        drawn = _draw(size, per_character, seed)
        write_atomically(path, partial(_write, drawn=drawn))
        logger.info("drawn images=%d path=%s", len(drawn.images), path)
    columns = pd.DataFrame(
        {
            "script": np.array(list(SCRIPTS), dtype=object)[drawn.script],
            "character": [unicodedata.name(chr(point)) for point in drawn.character],
            "font": np.array(CUTS, dtype=object)[drawn.font],
        }
    )
    return Dataset(torch.from_numpy(drawn.images).float().div_(255), columns)


def _key(size: int, per_character: int, seed: int) -> str:
    """Twelve hexadecimal digits of a hash of everything that the images depend on."""
    scripts = {name: repr(script) for name, script in SCRIPTS.items()}
    versions = (
        CACHE_VERSION,
        version("matplotlib"),
        PIL.__version__,
        unicodedata.unidata_version,
    )
    text = json.dumps([size, per_character, seed, CUTS, scripts, DRAWING, versions])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _read(path: Path) -> _Drawn | None:
    """The content of `path`; None if the file is missing or damaged, so that it is drawn again."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return _Drawn(file["images"], file["script"], file["character"], file["font"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _write(file: BinaryIO, drawn: _Drawn) -> None:
    np.savez(
        file,
        images=drawn.images,
        script=drawn.script,
        character=drawn.character,
        font=drawn.font,
    )


def _draw(size: int, per_character: int, seed: int) -> _Drawn:
    import matplotlib  # takes long; a search of other data, or of glyphs in the cache, has no use
    from matplotlib.ft2font import FT2Font

    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    files = [str(folder / f"{cut}.ttf") for cut in CUTS]
    fonts = [ImageFont.truetype(file, EM, layout_engine=ImageFont.Layout.BASIC) for file in files]
    charmaps = [FT2Font(file).get_charmap() for file in files]
    images: list[Tensor] = []
    rows: list[tuple[int, int, int]] = []
    for index, script in enumerate(SCRIPTS.values()):
        glyphs = _glyphs(script, fonts, charmaps)
        for point in distinct_points(glyphs):
            rng = np.random.default_rng([seed, point])
            turns = _turns(list(glyphs[point]), per_character, rng)
            large = np.stack(
                [
                    image_of(glyphs[point][cut], random_warp(rng), size * OVERSAMPLING)
                    for cut in turns
                ]
            )
            images.append(area_average(torch.from_numpy(large), size))
            rows += [(index, point, cut) for cut in turns]
    scripts, characters, cuts = np.array(rows, dtype=np.int32).T
    pixels = torch.cat(images).mul_(255).round_().byte().numpy()
    return _Drawn(pixels, scripts, characters, cuts)


def _glyphs(
    script: Script,
    fonts: list[ImageFont.FreeTypeFont],
    charmaps: Sequence[Mapping[int, int]],
) -> dict[int, dict[int, Glyph]]:
    """The glyphs that are not blank, by code point and by index of the font."""
    glyphs: dict[int, dict[int, Glyph]] = {}
    for cut, (font, charmap) in enumerate(zip(fonts, charmaps, strict=True)):
        drawn = {
            point: glyph
            for point in _points(script)
            if charmap.get(point, 0) != 0 and (glyph := glyph_in(font, chr(point))) is not None
        }
        if script.framed and drawn:
            lefts, tops, rights, bottoms = zip(*(g.box for g in drawn.values()), strict=True)
            frame = (min(lefts), min(tops), max(rights), max(bottoms))
            drawn = {point: Glyph(g.ink, g.box, frame) for point, g in drawn.items()}
        for point, glyph in drawn.items():
            glyphs.setdefault(point, {})[cut] = glyph
    return dict(sorted(glyphs.items()))


def _points(script: Script) -> Iterator[int]:
    for first, last in script.ranges:
        for point in range(first, last + 1):
            sign = chr(point)
            if not unicodedata.category(sign).startswith(script.kinds):
                continue
            if script.composed or not unicodedata.decomposition(sign):
                yield point


def glyph_in(font: ImageFont.FreeTypeFont, sign: str) -> Glyph | None:
    """The glyph of a character in a font; None if it is blank."""
    left, top, right, bottom = (int(edge) for edge in font.getbbox(sign))
    if left >= right or top >= bottom:
        return None
    ink = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(ink).text((-left, -top), sign, fill=255, font=font)
    inner = ink.getbbox()
    if inner is None:
        return None
    box = (left + inner[0], top + inner[1], left + inner[2], top + inner[3])
    return Glyph(ink.crop(inner), box, box)


def distinct_points(glyphs: dict[int, dict[int, Glyph]]) -> list[int]:
    """The code points, without those whose glyph looks like an earlier one in its first font."""
    still = np.eye(2)
    flat = np.stack(
        [
            np.asarray(image_of(next(iter(cuts.values())), still, 28), dtype=np.float32).ravel()
            for cuts in glyphs.values()
        ]
    )
    correlation = np.atleast_2d(np.corrcoef(flat))
    kept: list[int] = []
    for row in range(len(flat)):
        if not kept or correlation[row, kept].max() < _ALIKE:
            kept.append(row)
    points = list(glyphs)
    return [points[row] for row in kept]


def _turns(cuts: list[int], n: int, rng: np.random.Generator) -> list[int]:
    """`n` fonts in random order; the numbers of uses of two fonts differ by at most one."""
    order = [int(cut) for cut in rng.permutation(cuts)]
    return [order[turn % len(order)] for turn in range(n)]


def random_warp(rng: np.random.Generator, strength: float = 1.0) -> npt.NDArray[np.float64]:
    """A random affine map (2, 3) from image to glyph, around the centre of an image of side 1.

    strength: >= 0, multiplies the ranges of rotation, shear, scale and shift.
    """
    angle = strength * rng.uniform(-_ROTATION, _ROTATION)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shear = np.array([[1.0, strength * rng.uniform(-_SHEAR, _SHEAR)], [0.0, 1.0]])
    scale = np.diag(np.exp(strength * rng.uniform(-_SCALE, _SCALE, size=2)))
    shift = strength * rng.uniform(-_SHIFT, _SHIFT, size=(2, 1))
    return np.hstack([turn @ shear @ scale, shift])


def image_of(glyph: Glyph, warp: npt.NDArray[np.float64], side: int) -> Pixels:
    """Greyscale image (side, side) of the glyph, centred by its frame, warped by (2, 2 or 3)."""
    left, top, right, bottom = glyph.frame
    span = max(right - left, bottom - top, _SMALLEST * EM) / _FILL  # side of the whole image
    centre = np.array([(left + right) / 2 - glyph.box[0], (top + bottom) / 2 - glyph.box[1]])
    linear = warp[:, :2] * span / side
    shift = centre - linear @ np.full(2, side / 2)
    if warp.shape[1] == 3:
        shift += warp[:, 2] * span
    (a, b), (d, e) = linear.tolist()
    c, f = shift.tolist()
    return np.asarray(
        glyph.ink.transform(
            (side, side),
            Image.Transform.AFFINE,
            (a, b, c, d, e, f),
            Image.Resampling.BILINEAR,
        )
    )
