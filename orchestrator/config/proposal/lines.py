"""The lines of a proposed config that say what the data are and how columns were chosen."""

import json
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import pandas as pd
from pandas.api.types import is_numeric_dtype

from orchestrator.config.proposal.column_roles import Roles
from orchestrator.config.proposal.data_columns import ENCODER, DataColumns

_MOST_CODES = 3  # of missing numbers in one column
MOST_VALUES = 20  # of a column of texts whose values become features

HEAD = """# A search on {what}, proposed by `fewtune init`.
# Next: `fewtune check`, then `fewtune search`.
name: {name}
seed: 0

"""
SEARCH = """search:
  trials: 48
  reference_trials: 8  # of these with uniform task weights, to tune the rates of the reference
  finalists: 3         # retrained with new seeds, and scored on fresh episodes
  seeds: 3
"""
_CHOOSE = "--label COLUMN --group COLUMN --force"
MODELS: Mapping[str, str] = {
    "residual": "model: {name: residual}  # the encoder's features plus a correction that starts "
    "at zero",
    "bag": "# For better features install an encoder: `features: encoder, encoder: NAME` in "
    "`data`,\n# with `model: {name: residual}`.\nmodel: {name: bag}",
    "pixels": "# `model: {name: conv, width: 32}` is better on images, but takes hours on a CPU.\n"
    "model: {name: mlp, hidden: [128], n_out: 64}",
    "two_towers": "model: {name: two_towers, text: 512}  # a tower for images, one for titles",
    "mlp": "model: {name: mlp, hidden: [64], n_out: 32}",
}


def described(columns: DataColumns, roles: Roles) -> list[str]:
    """Lines for the terminal: what the data and the label are."""
    frame = columns.frame
    kind = "numbers" if roles.numbers else f"{frame[roles.label].nunique()} classes"
    titles = f", with the titles in {columns.titles}" if columns.titles else ""
    lines = [
        f"{columns.source}: {len(frame)} rows; columns: {', '.join(columns.names)}{titles}",
        f"label: {roles.label} ({kind}): {roles.label_reason}",
    ]
    if len(columns.names) > 1:
        lines.append(f"other columns: {_CHOOSE}")
    return lines


def how_to_choose(columns: DataColumns, roles: Roles) -> list[str]:
    """Comments: how to choose other columns, and which ones are features."""
    lines = []
    if len(columns.names) > 1:
        lines.append(f"# To choose other columns: `fewtune init DATA {_CHOOSE}`.")
    if columns.source == "table":
        lines.append("# The features are all numeric columns that are not in `labels`, and those")
        lines.append("# in `categories`. `missing: []` lets cells of them be empty.")
        lines += [f"# Not features: {left}." for left in [unused_columns(roles)] if left]
    return lines


def unused_columns(roles: Roles) -> str:
    return ", ".join(f"{json.dumps(name)} ({why})" for name, why in roles.left_out.items())


def dataset(
    columns: DataColumns,
    path: str,
    roles: Roles,
    *,
    groups: str | None = None,
    means: Sequence[str] = (),
) -> str:
    parts: dict[str, object] = {"source": columns.source, "path": path}
    if columns.source == "text":
        parts |= {"text": columns.text} if columns.text != "text" else {}
        parts |= (
            {"features": "encoder", "encoder": ENCODER}
            if columns.model == "residual"
            else {"features": "ngrams"}
        )
    if columns.source == "images":
        parts |= {"size": 28 if columns.channels == 1 else 32}
        parts |= {"crop": True} if Path(path).suffix != ".npz" else {}
        # Fixed, so that an export reads new images as the training images were read.
        parts |= {"channels": columns.channels}
        # Queries show their image alone; with `query: both` they also show their title.
        parts |= {"text": columns.titles, "query": "image"} if columns.titles else {}
    if columns.source == "table":
        parts |= table_options(columns.frame, roles)
        parts |= {"means": dict.fromkeys(means, roles.label)} if means else {}
        parts |= {"split": groups, "scale": "train"} if groups else {}
    return "{" + ", ".join(f"{key}: {json.dumps(value)}" for key, value in parts.items()) + "}"


def table_options(frame: pd.DataFrame, roles: Roles) -> Mapping[str, object]:
    """The options that follow from the columns."""
    chosen = [n for n in (roles.label, roles.group) if n and is_numeric_dtype(frame[n])]
    codes = missing_codes(frame, roles)
    categories = [
        name
        for name, n in value_counts(frame, roles).items()
        if 2 <= n <= MOST_VALUES and name not in codes
    ]
    features = [n for n in frame if is_numeric_dtype(frame[n]) and n not in chosen]
    empty = frame[[n for n in features if n not in roles.left_out]].isna().any(axis=None)
    return (
        ({"labels": [*chosen, *roles.left_out]} if chosen or roles.left_out else {})
        | ({"categories": categories} if categories else {})
        | ({"missing": sorted({*chain(*codes.values())})} if empty or codes else {})
    )


def missing_codes(frame: pd.DataFrame, roles: Roles) -> dict[str, list[str]]:
    """By column that has numbers but for a few texts, such as ?, these texts."""
    found = {}
    for name in value_counts(frame, roles):
        cells = frame[name].dropna().astype(str).str.strip()
        texts = cells[pd.to_numeric(cells, errors="coerce").isna()]
        if len(texts) and len(texts) <= len(cells) / 2 and texts.nunique() <= _MOST_CODES:
            found[name] = sorted(set(texts))
    return found


def value_counts(frame: pd.DataFrame, roles: Roles) -> dict[str, int]:
    """The number of values of each column of texts."""
    texts = [str(name) for name in frame if not is_numeric_dtype(frame[name])]
    return {n: frame[n].nunique() for n in texts if n not in (roles.label, roles.group)}
