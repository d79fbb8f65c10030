"""What a user's own part does to a search if it raises, or gives numbers that are none."""

import json
import os
import re
from pathlib import Path

import pytest

from orchestrator.cli import app as cli
from orchestrator.record.home import Home
from orchestrator.record.search_records import read_records
from orchestrator.tracking.mlflow_client import connect
from tests.test_extending import ROOT, package

__all__ = ["package"]  # a fixture

SMALL = {
    "search": {"trials": 6, "reference_trials": 2, "finalists": 1, "seeds": 2, "lanes": 2},
    "episodes": {"validation": 4, "test": 4, "query": 2},
    "steps": 4,
    "space": {"lr/outer": {"low": 1e-3, "high": 1e-1}},
}
LEARNER, TASKS = "mine/learner.py", "mine/tasks.py"
SUM = "near = negative_distances(query, support) / self._width"
EXECUTORS = ["inline", pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.slow])]


@pytest.fixture
def command(package, capsys, monkeypatch):
    """A command on the search of docs/extending.md, some of whose text was replaced."""
    monkeypatch.setenv("PYTHONPATH", f"{package}{os.pathsep}{ROOT}")  # for the workers on Ray

    def call(name, file, old, new, *more):
        text = (package / file).read_text()
        assert old in text
        (package / file).write_text(text.replace(old, new))
        words = [name, package / "search.yaml", "--home", package, *more]
        for key, value in SMALL.items():
            words += ["--set", f"{key}={json.dumps(value)}"]
        end = cli.main([str(word) for word in words])
        return end, capsys.readouterr().err

    return call


def states(home: Path) -> list[str]:
    records = read_records("arcs", Home(home))
    assert records is not None
    return [trial.state for trial in records.search.trials()]


def runs_of_trials(home):
    client = connect(Home(home).tracking_uri)
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(ids, "tags.`fewtune.kind` = 'trial'")
    return {run.data.tags["fewtune.key"].partition("/")[2]: run for run in found}


def paragraph(said):
    """The last of what was said, which is in one line."""
    assert "Traceback" not in said
    *_, last = said.strip().splitlines()
    return last


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_learner_that_raises_ends_the_search_with_what_to_look_at(command, package, executor):
    broken = f'{SUM}\n        raise ValueError("no width of {{}}".format(self._width))'
    end, said = command("search", LEARNER, SUM, broken, "--executor", executor)
    assert end == 1
    place = f"{package / LEARNER}:27, in logits"
    assert paragraph(said) == (
        "failed 4 trials failed for the same reason, and none has a score: ValueError: no width of "
        f"0.5 ({place}). The full traceback is in MLflow, in the description of the run "
        "search-0000. Fix the cause, then continue with `--resume` or start again under a new name."
    )
    assert len(said.splitlines()) < 10
    assert set(states(package)) <= {"failed", "running"}
    run = runs_of_trials(package)["search-0000"]
    assert run.info.status == "FAILED"
    assert run.data.tags["fewtune.error"] == f"ValueError: no width of 0.5 ({place})"
    note = run.data.tags["mlflow.note.content"]
    assert "Traceback (most recent call last):" in note
    assert note.endswith("ValueError: no width of 0.5\n```")


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_learner_without_numbers_ends_the_search_with_what_to_look_at(command, package, executor):
    end, said = command("search", LEARNER, SUM, f"{SUM} * torch.nan", "--executor", executor)
    assert end == 1
    assert re.search(r"[34] trials failed for the same reason", paragraph(said))
    assert "diverged: its parameters are not finite at step" in said
    assert "Check for values that are not finite" in said
    assert "diverged" in runs_of_trials(package)["search-0000"].data.tags["fewtune.error"]


def test_answers_that_are_no_numbers_are_no_score(command):
    """Not even where they are asked for only to score, and the parameters stay finite."""
    inline = ("--executor", "inline")
    end, said = command("search", LEARNER, "    meta_logits = logits", NAN_ANSWERS, *inline)
    assert end == 1
    assert "diverged: its score is NaN at step" in paragraph(said)
    assert "while its parameters are finite" in said


NAN_ANSWERS = """    meta_logits = logits

    def logits(self, params, episodes, hyper):
        return self.meta_logits(params, episodes, hyper) * torch.nan
"""


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        (
            LEARNER,
            "self._width = model, way, width",
            "self._width = model, way, 1 / 0",
            "learner: mine.learner:SoftNeighbours can't be built: ZeroDivisionError: division by z",
        ),
        (
            LEARNER,
            "model, way, width=1.0",
            "model, width=1.0",
            "learner: has a wrong option: got an unexpected keyword argument 'way'.",
        ),
        (
            LEARNER,
            "return self.embedding.init(generator)",
            "return self.embeding.init(generator)",
            "learner: can't make its initial parameters: AttributeError: 'SoftNeighbours' object h",
        ),
        (LEARNER, "import torch", "import torch, torhc", "that imports a missing module: torhc"),
        (
            TASKS,
            "del cache",
            "raise OSError",
            "datasets.arcs: mine.tasks:arcs can't be loaded: OSError",
        ),
    ],
)
@pytest.mark.parametrize("name", ["check", "search"])
def test_a_part_that_can_not_be_made_is_told_in_a_sentence(
    command, package, name, file, old, new, said
):
    end, told = command(name, file, old, new)
    assert end == 2, told
    assert "Traceback" not in told
    assert said in told
    assert not (package / "studies").exists()
    assert not (package / "mlflow.db").exists()


def test_check_says_what_a_learner_raises(command, package):
    end, said = command("check", LEARNER, SUM, f'{SUM}\n        raise ValueError("no")')
    assert end == 2
    assert f"failed: ValueError: no ({package / LEARNER}:27, in logits)" in paragraph(said)
