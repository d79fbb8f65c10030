import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fewshot.errors.inputs import InputError
from orchestrator.record.home import Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.at(str(tmp_path / "runs"))


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FEWTUNE_HOME", "FEWTUNE_STORAGE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


def owner(home: Home, name: str) -> subprocess.Popen[str]:
    """Another process that holds the search."""
    code = (
        "import sys, time; from orchestrator.record.home import Home\n"
        "with Home.at(sys.argv[1]).owned(sys.argv[2]): print('owned', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(home.path), name],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "owned\n"
    return child


def test_a_second_process_is_kept_out_until_the_first_is_killed(home: Home) -> None:
    child = owner(home, "toy")
    try:
        with pytest.raises(InputError, match=f"Wait for process {child.pid}"), home.owned("toy"):
            pass
        with home.owned("other"):
            pass
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    with home.owned("toy"):
        assert (home.search("toy") / "driver.lock").read_text() == str(os.getpid())


def test_the_owner_keeps_itself_out_and_lets_go_at_the_end(home: Home) -> None:
    with home.owned("toy"), pytest.raises(InputError, match=str(os.getpid())), home.owned("toy"):
        pass
    with pytest.raises(RuntimeError), home.owned("toy"):
        raise RuntimeError
    with home.owned("toy"):
        pass


def test_everything_lies_below_the_home(home: Home, tmp_path: Path) -> None:
    runs = tmp_path.resolve() / "runs"
    assert home.path == runs
    assert home.storage("toy") == str(runs / "studies" / "toy.journal")
    assert home.config("toy") == runs / "searches" / "toy" / "config.yaml"
    assert home.checkpoints("toy") == runs / "searches" / "toy" / "checkpoints"
    assert home.tracking_uri == f"sqlite:///{runs / 'mlflow.db'}"
    assert home.cache == runs / "features"


def test_naming_a_home_makes_nothing(home: Home) -> None:
    assert home.searches() == []
    assert not home.path.exists()


def test_the_place_is_the_argument_else_the_environment_else_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Home.at(None).path == tmp_path.resolve() / "fewtune-runs"
    monkeypatch.setenv("FEWTUNE_HOME", "elsewhere")
    assert Home.at(None).path == tmp_path.resolve() / "elsewhere"
    assert Home.at("here").path == tmp_path.resolve() / "here"
    assert Home.at("~").path == Path.home().resolve()


def test_a_home_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="must be a folder"):
        Home.at(str(tmp_path / "file"))


def test_servers_are_taken_from_the_environment(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    monkeypatch.setenv("FEWTUNE_STORAGE", "postgresql://db/optuna")
    assert home.tracking_uri == "http://tracking:5000"
    assert home.storage("toy") == "postgresql://db/optuna"
    monkeypatch.setenv("FEWTUNE_STORAGE", "optuna.db")
    with pytest.raises(InputError, match="FEWTUNE_STORAGE: must be a database URL"):
        home.storage("toy")


def test_searches_are_those_with_a_config(home: Home) -> None:
    for name in ("b", "a"):
        home.search(name).mkdir(parents=True)
        home.config(name).touch()
    home.search("begun").mkdir()
    assert home.searches() == ["a", "b"]
