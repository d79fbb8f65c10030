"""The map from event keys to MLflow run ids."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.tracking.sending.outbox import read_lines


class RunIds:
    """Run ids by key, in a file beside the outbox. A cache: runs can be found by their tags too."""

    def __init__(self, path: Path, tracking_uri: str) -> None:
        self._path = path
        self._uri = tracking_uri
        lines = [line for line, _ in read_lines(path)]
        there = bool(lines) and lines[0] == ["uri", tracking_uri]
        self.runs: dict[str, str] = dict(filter(_is_pair, lines[1:])) if there else {}
        if not there:
            self.clear()

    def __bool__(self) -> bool:
        return bool(self.runs)

    def add(self, key: str, run_id: str) -> None:
        self.runs[key] = run_id
        self._write([key, run_id], "a")

    def clear(self) -> None:
        self.runs.clear()
        self._write(["uri", self._uri], "w")

    def replace(self, runs: Mapping[str, str]) -> None:
        """Forget all runs but these."""
        self.clear()
        for key, run_id in runs.items():
            self.add(key, run_id)

    def _write(self, line: list[str], mode: str) -> None:
        with self._path.open(mode) as file:
            file.write(json.dumps(line) + "\n")


def _is_pair(line: Any) -> bool:
    """Whether a line is a valid (key, run id) pair; a damaged line is not."""
    return isinstance(line, list) and len(line) == 2 and all(isinstance(x, str) for x in line)
