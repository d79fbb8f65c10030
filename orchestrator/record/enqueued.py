"""Configurations that a user adds to a search, on their way from the command to the driver.

Only the driver writes the studies, and it may be another process. So each configuration is a file
in the folder of the search, which the driver removes when the trial is in the study.
"""

import json
import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from fewshot.tasks.files import write_text
from orchestrator.record.studies.study import StudyRecord
from orchestrator.space.search_space import SearchSpace, Values

log = logging.getLogger(__name__)

# The note of a trial that says where its parameters come from, and that with the file's name.
ORIGIN, FILE = "origin", "enqueued_as"


class EnqueuedTrials:
    """The files in `folder`, which need not exist.

    Laws:
    - a configuration that was added is run once, after any kill of either process: the trial and
      the name of its file are written to the study in one operation, and only then, when the study
      is on the disk, `remove_started` removes the file;
    - the files are read in the order in which they were added.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, params: Mapping[str, Any]) -> Path:
        """Add a configuration; returns its file, which is complete or absent."""
        path = self._folder / f"{time.time_ns():020d}-{uuid4().hex[:8]}.json"
        write_text(path, json.dumps(dict(params)))
        return path

    def next(self, record: StudyRecord, space: SearchSpace) -> tuple[str, Values] | None:
        """The name and the parameters of the first file whose trial is not in the study."""
        files = list(self._files())
        started = _started(record) if files else set()
        for path in files:
            if path.name not in started and (params := _read(path, space)) is not None:
                return path.name, params
        return None

    def remove_started(self, record: StudyRecord) -> None:
        """Remove the files of trials in the study; call it after `StudyRecord.sync`."""
        files = list(self._files())
        started = _started(record) if files else set()
        for path in files:
            if path.name in started:
                path.unlink(missing_ok=True)

    def __len__(self) -> int:
        return len(list(self._files()))

    def _files(self) -> Iterator[Path]:
        # The files of `write_text` that are not complete begin with a dot.
        return iter(sorted(self._folder.glob("[0-9]*.json")))


def _started(record: StudyRecord) -> set[str]:
    return {trial.notes[FILE] for trial in record.trials() if FILE in trial.notes}


def _read(path: Path, space: SearchSpace) -> Values | None:
    """The parameters in the file; it is set aside if they are not of this search space."""
    box = space.box()
    try:
        params: Values = dict(json.loads(path.read_bytes()))
        outside = [name for name, value in params.items() if not box[name].contains(value)]
        if params.keys() == space.complete(params).keys() and not outside:
            return params
        reason = f"not in the search space: {outside or sorted(params)}"
    except (ValueError, KeyError, TypeError) as error:
        reason = repr(error)
    aside = path.with_suffix(".rejected")
    path.replace(aside)
    log.warning("enqueued_file_rejected path=%s reason=%s", aside, reason)
    return None
