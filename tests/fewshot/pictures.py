"""Folders of small pictures, some with a table of titles."""

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = tuple(f"kind_{i}" for i in range(6))


def save(folder: Path, classes=CLASSES, n=4, seed=0, side=8, noise=60) -> Path:
    """n pictures of each class, in folders of their own; noise: its deviation, white is 255."""
    rng = np.random.default_rng(seed)
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        base = np.random.default_rng(list(name.encode()))
        shade = base.integers(0, 256, (side, side))
        for i in range(n):
            pixels = (shade + rng.normal(0, noise, (side, side))).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def titles(folder: Path, without=(), path: Path | None = None) -> Path:
    """A table with a title for each picture; empty for the classes in `without`."""
    rows = {
        file.relative_to(folder).as_posix(): "" if file.parent.name in without else file.parent.name
        for file in sorted(folder.rglob("*.png"))
    }
    return write(path or folder / "titles.csv", rows)


def write(path: Path, rows: Mapping[str, str]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file", "text"])
        table.writerows(rows.items())
    return path
