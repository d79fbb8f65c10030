"""Reads the titles of images from a table, and tells everything that is wrong with it at once."""

import csv
from collections import Counter
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import pandas as pd

from fewshot.errors.inputs import ErrorDetail, InputError, input_error
from fewshot.tasks.files import distinct_columns, existing

FILE, TEXT = "file", "text"  # the columns of the table
_SHOWN = 5
_ENDING = ".csv"


def titles_of(text: str, folder: Path, files: Sequence[Path], where: str) -> list[str]:
    """The title of each image file in `folder`, in their order; "" for an image without one.

    text: the path of the table; a file name alone is looked for in `folder`. It has a row for each
        image, with the columns `file`, the path of the image from `folder`, and `text`, which may
        be empty. Another name than `text` is possible if there is no third column.
    where: the name of the option with the path, for messages.

    Raises InputError with all errors: files that do not exist, files without a row, several rows of
    one file, missing columns, no text at all, a file that is empty or can't be read.
    """
    path = _path(text, folder, where)
    table = _read(path)
    names = [file.relative_to(folder).as_posix() for file in files]
    column = _text_column(table, path)
    given = [_tidy(name) for name in table[FILE]]
    titles = dict(zip(given, (title.strip() for title in table[column]), strict=True))
    details = _errors(path, given, names)
    if not details and not any(titles.values()):
        rule = f"must have a text in some row; the column `{column}` is empty."
        details = [ErrorDetail(str(path), rule, f"{len(table)} rows")]
    if details:
        raise InputError(details)
    return [titles[name] for name in names]


def _path(text: object, folder: Path, where: str) -> Path:
    if not isinstance(text, str) or not text.strip():
        rule = "must be the path of a table with the titles of the images."
        raise input_error(where, rule, text, "For example text: titles.csv")
    if "/" not in text and "\\" not in text and not text.startswith(("~", "$")):
        text = str(folder / text)
    path = existing(text, where)
    if path.is_dir() or path.suffix.lower() != _ENDING:
        raise input_error(where, f"must be a file that ends in {_ENDING}.", str(path))
    return path


def _read(path: Path) -> pd.DataFrame:
    remedy = f"Write a table with the columns `{FILE}` and `{TEXT}`, and a row for each image."
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, ValueError, csv.Error) as error:
        raise input_error(str(path), f"can't be read: {error}", None, remedy) from error
    if not rows:
        raise input_error(str(path), "must not be empty.", None, remedy)
    names = [name.strip() for name in rows[0]]
    distinct_columns(names, path)
    wrong = [",".join(row) for row in rows[1:] if len(row) != len(names)]
    if wrong:
        rule = f"must have {len(names)} cells in each row, as in the first one."
        quoted = 'Write a title with a comma in quotes: mugs/1.png,"A mug, blue"'
        raise input_error(str(path), rule, _listed(wrong), quoted)
    table = pd.DataFrame(rows[1:], columns=names)
    details = []
    if FILE not in table or len(table.columns) < 2:
        rule = f"must have the columns `{FILE}` and `{TEXT}`."
        details.append(ErrorDetail(str(path), rule, ", ".join(table.columns), remedy))
    if table.empty:
        details.append(ErrorDetail(str(path), "must have at least one row.", None, remedy))
    if details:
        raise InputError(details)
    return table


def _text_column(table: pd.DataFrame, path: Path) -> str:
    others = [name for name in table.columns if name != FILE]
    if TEXT in others:
        return TEXT
    if len(others) > 1:
        rule = f"must have a column `{TEXT}` if it has more than two columns."
        remedy = f"Rename the column with the titles to `{TEXT}`."
        raise input_error(str(path), rule, ", ".join(table.columns), remedy)
    return str(others[0])


def _tidy(name: str) -> str:
    return name.strip().replace("\\", "/").removeprefix("./")


def _errors(path: Path, given: Sequence[str], names: Sequence[str]) -> list[ErrorDetail]:
    """All errors between the files in the table and those in the folder."""
    known, rows = set(names), Counter(given)
    unknown = [name for name in rows if name not in known]
    missing = [name for name in names if name not in rows]
    twice = [f"{name} ({n} rows)" for name, n in rows.items() if n > 1]
    details = []
    if unknown:
        rule = "must name image files of the folder; these do not exist there."
        details.append(ErrorDetail(str(path), rule, _listed(unknown), _meant(unknown, names)))
    if missing:
        rule = "must have a row for each image file; these have none."
        remedy = f"Add them; leave `{TEXT}` empty where there is no title."
        details.append(ErrorDetail(str(path), rule, _listed(missing), remedy))
    if twice:
        rule = "must have one row for each image file; these have several."
        details.append(ErrorDetail(str(path), rule, _listed(twice), "Keep one row of each."))
    return details


def _meant(unknown: Sequence[str], names: Sequence[str]) -> str:
    """What the first unknown file perhaps is: a file of the same name, or of a similar path."""
    same = [name for name in names if name.rpartition("/")[2] == unknown[0].rpartition("/")[2]]
    near = same if len(same) == 1 else get_close_matches(unknown[0], names, 1)
    hint = f"Did you mean {near[0]}? " if near else ""
    return f"{hint}Paths start from the folder of the images, such as {names[0]}."


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)}: {', '.join(names[:_SHOWN])}{more}"
