"""The commands around a search: list, delete, init, schema, and what --help and typos print."""

import json
import shutil

import jsonschema
import pytest
import yaml

from orchestrator import Search
from orchestrator.cli import app as cli
from tests.orchestrator.test_api import TINY, small
from tests.paths import ROOT


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Search:
    made = small(tmp_path_factory.mktemp("commands"), *TINY)
    made.run(executor="inline")
    return made


@pytest.fixture
def home(finished, tmp_path):
    shutil.copytree(finished.home, tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture
def called(capsys):
    def call(*arguments):
        code = cli.main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


def test_show_says_why(home, called):
    code, out, _ = called("show", "functions", "--home", home, "--why")
    assert code == 0
    assert "on the test tasks" in out
    assert "cannot be told" in out
    assert "are too few" in out
    assert "early stopping consistent" in out
    code, out, _ = called("show", "functions", "--home", home, "--why", "--json")
    found = json.loads(out)["explanation"]
    assert {row["verdict"] for row in found["effects"]} == {"cannot be told"}
    assert found["effects"][0]["effect"]["mean"] is None


def test_list_shows_every_search(home, called):
    code, out, _ = called("list", "--home", home)
    assert code == 0
    assert all(word in out for word in ("functions", "complete", "2/2", "age"))
    code, out, _ = called("list", "--home", home, "--json")
    (found,) = json.loads(out)
    assert found["name"] == "functions"
    assert found["trials"] == found["planned"] == 2


def test_list_of_an_empty_home_says_so(tmp_path, called):
    code, out, err = called("list", "--home", tmp_path)
    assert (code, out) == (0, "")
    assert "no searches" in err


def test_delete_asks_first(home, called, monkeypatch):
    for answer, code, left in (("n\n", 1, True), ("y\n", 0, False)):
        monkeypatch.setattr("sys.stdin", _typed(answer))
        found, _, err = called("delete", "functions", "--home", home)
        assert found == code
        assert "Delete functions in" in err
        assert (home / "searches" / "functions").exists() == left


def _typed(text):
    import io

    return io.StringIO(text)


def test_delete_with_yes_does_not_ask(home, called):
    assert called("delete", "functions", "--home", home, "--yes")[0] == 0
    code, _, err = called("delete", "functions", "--home", home, "--yes")
    assert code == 2
    assert "must be the name of a search" in err


def test_the_version_is_that_of_the_package(called):
    from importlib.metadata import version

    assert called("--version") == (0, f"fewtune {version('fewtune')}\n", "")


def test_help_groups_the_commands(called):
    code, out, _ = called("--help")
    assert code == 0
    assert all(panel in out for panel in ("Search", "Results", "Cluster", "Set-up", "Exit codes"))


def test_without_a_command_help_is_shown(called):
    code, out, err = called()
    assert code == 2
    assert "COMMAND" in out + err


QUICKSTART = ROOT / "configs" / "quickstart.yaml"


@pytest.mark.parametrize(
    ("typed", "suggested"),
    [
        (["serach"], "search"),
        (["check", "x.yaml", "--hoem", "y"], "--home"),
        (["check", QUICKSTART, "--set", "stepz=3"], "`steps`"),
        (["check", QUICKSTART, "--set", "search.trails=3"], "`trials`"),
        (["check", QUICKSTART, "--set", "model.hiden=[3]"], "`hidden`"),
        (["check", QUICKSTART, "--set", "model.name=mpl"], "`mlp`"),
        (["check", QUICKSTART, "--set", "learner.name=protnet"], "`protonet`"),
    ],
)
def test_what_is_unknown_gets_the_nearest_known_name(called, typed, suggested):
    code, _, err = called(*typed)
    assert code == 2
    assert suggested in err


@pytest.mark.parametrize("command", ["show", "delete"])
def test_an_unknown_search_gets_the_nearest_known_name(home, called, command):
    code, _, err = called(command, "fuctions", "--home", home)
    assert code == 2
    assert "Did you mean `functions`?" in err


def test_completion_knows_the_commands(called, monkeypatch):
    monkeypatch.setenv("_FEWTUNE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "fewtune ex")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert called()[1].split() == ["export"]


def test_the_schema_accepts_every_shipped_config_and_refuses_typos(called):
    code, out, _ = called("schema")
    assert code == 0
    validator = jsonschema.Draft202012Validator(json.loads(out))
    for path in ROOT.glob("configs/*.yaml"):
        config = yaml.safe_load(path.read_text().replace("e-", ".0e-"))
        assert list(validator.iter_errors(config)) == []
    numbers = {"low": 1, "high": 5, "step": 1}
    learner = {"choices": ["protonet", {"name": "maml", "inner_steps": numbers}]}
    episodes = config["episodes"] | {"per_task": numbers}
    searched = {"learner": learner, "episodes": episodes, "steps": {"choices": [1, 2]}}
    assert list(validator.iter_errors(config | searched)) == []
    for wrong in ({"stepz": 1}, {"model": {"name": "mpl"}}, {"steps": "many"}):
        assert list(validator.iter_errors(config | wrong))
