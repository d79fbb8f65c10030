"""What `fewtune doctor` finds on a healthy machine, and where something is wrong."""

import json
import sqlite3

import pytest

from orchestrator.cli import app as cli
from orchestrator.config import loading
from orchestrator.doctor import machine
from orchestrator.doctor.doctor import examined
from orchestrator.record.home import Home
from orchestrator.record.studies.storage_probe import unreachable
from tests.orchestrator import tiny

SECRET = "hunter2"


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    for name in ("FEWTUNE_STORAGE", "MLFLOW_TRACKING_URI", "RAY_ADDRESS", "FEWTUNE_DATA"):
        monkeypatch.delenv(name, raising=False)


def by_name(home, config=None, **options):
    found = examined(Home.at(str(home)), config, **options)
    assert all(each.remedy for each in found if each.status != "ok")
    return {each.what: each for each in found}


def problems(found):
    return {what for what, each in found.items() if each.status == "problem"}


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "toy.yaml"
    path.write_text(loading.dump(tiny.config()))
    return path


def text_config(folder, encoder):
    (folder / "texts.csv").write_text("text,label,domain\na,b,c\n")
    tasks = {
        split: [{"name": split, "dataset": "texts", "label": "label", "where": {"domain": "c"}}]
        for split in ("train", "validation", "test")
    }
    data = loading.data_of(tiny.config()) | {
        "datasets": {
            "texts": {
                "source": "text",
                "path": "texts.csv",
                "features": "encoder",
                "encoder": encoder,
            }
        },
        "tasks": tasks | {"overlap": True},
        "model": {"name": "residual"},
        "learner": {"name": "protonet"},
        "episodes": {"way": 2, "shot": 1, "query": 1},
        "space": {"lr/outer": 0.01},
    }
    path = folder / "texts.yaml"
    path.write_text(loading.dump(loading.parse(data)))
    return path


def test_a_healthy_machine_has_no_problems_and_stays_as_it_is(tmp_path, config, capfd):
    home = tmp_path / "home"
    found = by_name(home, config)
    assert problems(found) == set()
    assert {"python", "torch", "ray", "optuna", "mlflow", "transformers"} <= set(found)
    assert {"gpu", "memory", "cores", "home", "disk", "storage", "mlflow server"} <= set(found)
    assert not home.exists()
    assert cli.main(["doctor", str(config), "--home", str(home)]) == 0
    assert "nothing that would stop a search" in capfd.readouterr().out
    assert cli.main(["doctor", "--json", "--home", str(home)]) == 0
    assert json.loads(capfd.readouterr().out)["problems"] == 0


def test_a_home_that_cannot_be_written(capfd):
    assert problems(by_name("/proc/fewtune")) == {"home"}
    assert cli.main(["doctor", "--home", "/proc/fewtune", "--json"]) == 1
    assert "can't be written" in capfd.readouterr().out


@pytest.mark.parametrize(
    "url", ["nonsense", f"nosuchdb://me:{SECRET}@host/x", "sqlite:////proc/fewtune/x.db"]
)
def test_a_wrong_storage_url(tmp_path, monkeypatch, capfd, url):
    monkeypatch.setenv("FEWTUNE_STORAGE", url)
    found = by_name(tmp_path)
    assert len(problems(found)) == 1
    assert cli.main(["doctor", "--home", str(tmp_path), "--json"]) == 1
    assert SECRET not in capfd.readouterr().out


def test_a_database_is_reached_without_a_change(tmp_path, study_database, monkeypatch):
    before = study_database.read_bytes()
    monkeypatch.setenv("FEWTUNE_STORAGE", f"sqlite:///{study_database}")
    assert by_name(tmp_path)["storage"].status == "ok"
    assert study_database.read_bytes() == before
    new = tmp_path / "new.db"
    assert unreachable(f"sqlite:///{new}") == ""
    assert not new.exists()
    new.write_bytes(b"this is not a database" * 100)
    assert "not a database" in unreachable(f"sqlite:///{new}")


def test_a_missing_encoder_and_missing_data(tmp_path):
    path = text_config(tmp_path, "no_such_encoder")
    found = by_name(tmp_path / "home", path)
    assert problems(found) == {"encoder no_such_encoder"}
    (tmp_path / "texts.csv").unlink()
    found = by_name(tmp_path / "home", path)
    assert any("texts" in what and what.startswith("datasets") for what in problems(found))


def test_a_disk_that_is_full_or_nearly_so(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_LITTLE_DISK", 1 << 62)
    assert by_name(tmp_path)["disk"].status == "warning"
    monkeypatch.setattr(machine, "_LEAST_DISK", 1 << 62)
    assert problems(by_name(tmp_path)) == {"disk"}


def test_every_error_of_a_config_is_a_finding(tmp_path, config):
    config.write_text(config.read_text().replace("steps: 2", "steps: -2"))
    assert "steps" in problems(by_name(tmp_path, config))


def test_a_server_that_is_away_is_a_warning_and_its_password_is_hidden(
    tmp_path, monkeypatch, capfd
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{SECRET}@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert by_name(tmp_path)["mlflow server"].status == "warning"
    assert cli.main(["doctor", "--home", str(tmp_path)]) == 0
    assert SECRET not in capfd.readouterr().out


def test_a_database_of_mlflow_that_is_damaged_or_of_another_version(
    tmp_path, mlflow_set_up, made_once
):
    made = made_once("mlflow.db", lambda path: mlflow_set_up(path, f"sqlite:///{path}"))
    homes = [tmp_path / name for name in ("good", "old", "damaged")]
    databases = [home / "mlflow.db" for home in homes]
    for home, database in zip(homes, databases, strict=True):
        home.mkdir()
        database.write_bytes(made.read_bytes())
    found = by_name(homes[0])["mlflow server"]
    assert found.status == "ok"
    assert "schema" in found.text
    with sqlite3.connect(databases[1]) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0123456789ab'")
    found = by_name(homes[1])["mlflow server"]
    assert found.status == "problem"
    assert "mlflow db upgrade" in found.remedy
    databases[2].write_bytes(b"this is not a database" * 100)
    assert by_name(homes[2])["mlflow server"].status == "problem"


def test_versions_that_are_not_supported_or_missing(tmp_path, monkeypatch):
    installed = machine.importlib.metadata.version
    monkeypatch.setattr(
        machine.importlib.metadata, "version", lambda n: "1.0" if n == "ray" else installed(n)
    )
    found = by_name(tmp_path)["ray"]
    assert found.status == "problem"
    assert "pip install 'ray==" in found.remedy


@pytest.mark.ray
@pytest.mark.slow
def test_a_worker_sees_the_same_machine(tmp_path, config):
    found = examined(Home.at(str(tmp_path / "home")), config, start_ray=True)
    there = {each.what: each for each in found if each.place == "worker"}
    assert {"python", "torch", "home", "disk", "memory"} <= set(there)
    assert not [each for each in found if each.status == "problem"]
