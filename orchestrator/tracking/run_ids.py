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
        self.add_all({key: run_id})

    def add_all(self, runs: Mapping[str, str]) -> None:
        self.runs |= runs
        self._write(list(map(list, runs.items())), "a")

    def clear(self) -> None:
        self.runs.clear()
        self._write([["uri", self._uri]], "w")

    def replace(self, runs: Mapping[str, str]) -> None:
        """Forget all runs but these."""
        self.clear()
        self.add_all(runs)

    def _write(self, lines: list[list[str]], mode: str) -> None:
        with self._path.open(mode) as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines))


def _is_pair(line: Any) -> bool:
    """Whether a line is a valid (key, run id) pair; a damaged line is not."""
    return isinstance(line, list) and len(line) == 2 and all(isinstance(x, str) for x in line)
