"""A user's own parts, as docs/extending.md has them: they keep the laws, and can be searched."""

import json
import os
import re
import sys

import pytest

from orchestrator.cli import app as cli
from orchestrator.config.loading import load_config
from orchestrator.config.plan import recipe_of
from tests.orchestrator.tiny import quiet
from tests.paths import ROOT
from trials.programs.data_summary import summarise_data

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"`([\w/]+\.\w+)`:\n\n```\w+\n(.*?)```", PAGE, re.DOTALL))


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A folder with the files of the page, on the path while the test lasts."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").touch()
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]


@pytest.mark.parametrize("name", ["mine/learner.py", "mine/tasks.py"])
def test_a_new_part_takes_fewer_than_forty_lines(name):
    assert 10 < len(FILES[name].splitlines()) < 40


class Passed:
    """Counts the tests that pass."""

    n = 0

    def pytest_runtest_logreport(self, report):
        self.n += report.when == "call" and report.passed


def test_new_parts_pass_the_suites(package, monkeypatch):
    """Run in this process, which has imported what the suites need; so without some plugins."""
    monkeypatch.chdir(package)
    passed, without = Passed(), ("cacheprovider", "xdist", "faulthandler", "unraisableexception")
    words = [word for name in without for word in ("-p", f"no:{name}")]
    assert pytest.main(["-q", *words, "mine/test_laws.py"], plugins=[passed]) == 0
    assert passed.n > 50


@pytest.mark.parametrize("executor", ["inline", pytest.param("ray", marks=pytest.mark.ray)])
def test_new_parts_run_in_a_search(package, executor, capsys, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{package}{os.pathsep}{ROOT}")  # for the workers on Ray
    monkeypatch.setattr("orchestrator.tracking.sending.mlflow_sender.recorder", quiet)
    small = {
        "search": {"trials": 4, "reference_trials": 2, "finalists": 1, "seeds": 2, "lanes": 4},
        "episodes": {"validation": 40, "test": 40},
    }
    words = ["search", package / "search.yaml", "--executor", executor, "--home", package, "--json"]
    for key, value in small.items():
        words += ["--set", f"{key}={json.dumps(value)}"]
    end = cli.main([str(word) for word in words])
    said = capsys.readouterr()
    assert end == 0, said.err
    summary = json.loads(said.out.splitlines()[-1])
    assert summary["trials"]["failed"] == 0
    # Of twelve arcs five are asked for: guessing is .2.
    assert summary["test"]["uniform"]["mean"] > 0.5


def test_new_functions_can_be_learned(package):
    function = "[{function: 'mine.tasks:sawtooth'}]"
    sets = [
        f"tasks={{train: {function}, validation: {function}, test: {function}}}",
        "datasets={}",
        "model={name: mlp}",
        "learner={name: maml}",
        "space={lr/outer: 0.01, lr/inner: 0.01, lr/adapt: 0.01}",
    ]
    config = load_config(package / "search.yaml", sets)
    assert config.train_names() == ["sawtooth"]
    assert summarise_data(recipe_of(config), package).features == (1,)
