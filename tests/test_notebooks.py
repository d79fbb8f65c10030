"""The notebooks of the documentation run from top to bottom."""

import os
import shutil

import nbformat
import pytest
from nbclient import NotebookClient

from orchestrator.record.home import Home
from orchestrator.tracking.mlflow_client import connect
from tests.paths import ROOT

SMALLER = {
    "trials=16": "trials=8",
    "reference_trials=4": "reference_trials=2",
    "steps=60": "steps=20",
}


@pytest.mark.slow
def test_the_quickstart_notebook_shows_a_table_and_two_plots(tmp_path, monkeypatch):
    folder = tmp_path / "docs" / "notebooks"
    folder.mkdir(parents=True)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    path = shutil.copy(ROOT / "docs" / "notebooks" / "quickstart.ipynb", folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(path, as_version=4)
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    for written, smaller in SMALLER.items():
        assert written in first.source
        first.source = first.source.replace(written, smaller)
    connect(Home(folder / "runs").tracking_uri)  # here, where the database is copied
    NotebookClient(notebook, timeout=180, resources={"metadata": {"path": str(folder)}}).execute()
    outputs = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
    kinds = [kind for o in outputs for kind in o.get("data", {})]
    assert kinds.count("image/png") == 2
    assert any("lambda/line" in o.get("data", {}).get("text/html", "") for o in outputs)
    assert "'model.safetensors'" in str(outputs[-1])
    assert not [o for o in outputs if o.output_type == "error"]
