"""The explanation of an ended search on disk, because fitting it takes seconds.

The file is a cache: it can be removed, and one of another state of the search is not used.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fewshot.tasks.files import write_text
from orchestrator.record.identity import ID
from orchestrator.record.search_records import SearchRecords

log = logging.getLogger(__name__)

FILE = "explained.json"
# To be raised when the same trials get another explanation.
_VERSION = 1


def key_of(records: SearchRecords) -> list[Any]:
    """What the explanation of an ended search depends on: an ended search has no new trials."""
    stages = (records.search, records.final, records.test)
    return [_VERSION, records.search.notes.get(ID), *(len(record) for record in stages)]


def read(folder: Path, key: Sequence[Any]) -> Mapping[str, Any] | None:
    """The explanation with this key in the folder of a search; None if there is none."""
    try:
        data = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return dict(data["explanation"]) if data["key"] == list(key) else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("explanation_unreadable path=%s error=%r", folder / FILE, error)
        return None


def write(folder: Path, key: Sequence[Any], explanation: Mapping[str, Any]) -> None:
    """Write the explanation; a folder that can't be written to is no error."""
    try:
        data = {"key": list(key), "explanation": dict(explanation)}
        write_text(folder / FILE, json.dumps(data))
    except OSError as error:
        log.warning("explanation_not_stored path=%s error=%s", folder / FILE, error)
