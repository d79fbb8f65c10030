"""Small searches of the shipped configs, on some rows of their real data."""

import contextlib
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import app as cli
from tests.paths import ROOT

_SMALL: dict[str, Any] = {
    "steps": 12,
    "search.trials": 12,
    "search.reference_trials": 2,
    "search.finalists": 1,
    "search.seeds": 2,
    "search.rungs": [0.5],
    "search.lanes": 4,
}
_FEW = {"validation": 5, "test": 5}
CHANGES: dict[str, dict[str, Any]] = {
    "distill": {"episodes": {"way": 150, "shot": 2}},
    "fc100": {
        "episodes": {"way": 5, "query": 1, "per_step": 2, "validation": 4, "test": 4},
        "steps": 6,
        "search.trials": 4,
    },
    "finetune": {
        "episodes": {"way": 15, "shot": 2},
        "steps": 2,
        "search.trials": 2,
        "search.reference_trials": 1,
        "search.lanes": 1,
    },
    "functions": {"episodes": {"shot": 5, "query": 2, "per_task": 1, "validation": 10, "test": 10}},
    "intents": {"episodes": {"way": 15, "per_task": 1, **_FEW}},
    "omniglot": {"episodes": {"way": 5, "shot": 1, "query": 2, "per_task": 2, **_FEW}},
}
ENCODED = {"distill", "finetune", "intents"}  # these need the encoder of `make minilm`


def planned(name: str) -> int:
    """The number of trials of the search of a config."""
    trials: int = (_SMALL | CHANGES[name])["search.trials"]
    return trials


def search(name: str, data: Path, home: Path) -> None:
    """Run the search of a config, and keep its summary."""
    changes = _SMALL | CHANGES[name]
    sets = [
        word for key, value in changes.items() for word in ("--set", f"{key}={json.dumps(value)}")
    ]
    config = str(ROOT / "configs" / f"{name}.yaml")
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as said:
        patch.setenv("FEWTUNE_DATA", str(data))
        words = ["--executor", "inline", "--home", str(home), "--json"]
        assert cli.main(["search", config, *words, *sets]) == 0
    (home / "summary.json").write_text(said.getvalue().splitlines()[-1], encoding="utf-8")


def thin(data: Path, folder: Path) -> None:
    """Make a folder of the datasets with some of the texts, which take minutes to be embedded.

    It keeps every eighth text, and every fourth of the small subsets with labels.
    """
    for path in (path for path in data.rglob("*") if path.is_file()):
        own = folder / path.relative_to(data)
        own.parent.mkdir(parents=True, exist_ok=True)
        if path.name.endswith(".jsonl.gz"):
            rows = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
            kept = [row for n, row in enumerate(rows) if n % (4 if b'"train_' in row else 8) == 0]
            own.write_bytes(gzip.compress(b"".join(kept)))
        else:
            own.symlink_to(path)
