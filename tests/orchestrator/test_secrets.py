"""Secrets in the environment of a search are searched for in all that it leaves."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import pytest

from orchestrator.config.loading import dump
from tests.orchestrator import tiny
from tests.orchestrator.postgres import PASSWORD
from tests.paths import ROOT

pytest_plugins = ["tests.orchestrator.postgres", "tests.orchestrator.token_cluster"]

PLANTED = "planted-8d1e77"
VARIABLES = (
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "HF_TOKEN",
    "PGPASSWORD",
)


def environment(**more: str) -> dict[str, str]:
    """An environment with a secret in each variable that may have one."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    planted = dict.fromkeys(VARIABLES, PLANTED) | {"RAY_AUTH_TOKEN": PLANTED * 3}
    planted["FEWTUNE_DATA"] = f"https://me:{PLANTED}@host/d?sv=1&sig={PLANTED}"
    return own | planted | {"PYTHONPATH": os.pathsep.join(paths)} | more


def with_secret(folder: Path) -> Iterator[str]:
    """The files under a folder that have a secret, in their content or in their name."""
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        if any(each.encode() in content or each in str(path) for each in (PLANTED, PASSWORD)):
            yield str(path)


def observed(command: list[str], env: Mapping[str, str], log: Path) -> tuple[int, set[str]]:
    """The exit code of a command, and the command lines of its processes while it ran."""
    lines: set[str] = set()
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            cwd=log.parent,
            env=env,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ray starts slowly beside other processes of its session
        )
    root = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            for each in [root, *root.children(recursive=True)]:
                lines.add(" ".join(each.cmdline()))
        except psutil.Error:
            pass
        try:
            process.wait(1)
        except subprocess.TimeoutExpired:
            continue
    return process.returncode, lines


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["inline", pytest.param("ray", marks=pytest.mark.ray)])
@pytest.mark.timeout(1200)
def test_a_search_keeps_no_secret(postgres, tmp_path: Path, executor: str) -> None:
    config, home, log = tmp_path / "toy.yaml", tmp_path / "home", tmp_path / "said"
    config.write_text(dump(tiny.config()))
    with tempfile.TemporaryDirectory(prefix="fts", dir="/tmp") as of_ray:  # paths of sockets
        env = environment(
            HOME=str(tmp_path),
            RAY_TMPDIR=of_ray,
            FEWTUNE_STORAGE=postgres.create(f"kept_{executor}"),
            MLFLOW_TRACKING_URI=postgres.create(f"mlflow_{executor}"),
        )
        command = [sys.executable, "-m", "orchestrator.cli", "search", str(config)]
        command += ["--home", str(home), "--executor", executor]
        code, lines = observed(command, env, log)
        assert code == 0, log.read_text()
        assert not [line for line in lines if PLANTED in line or PASSWORD in line]
        assert list(with_secret(tmp_path)) == []
        assert list(with_secret(Path(of_ray))) == []
        if executor == "ray":
            assert list(Path(of_ray).rglob("raylet.out")), "Ray's logs were looked through"
    for database in (f"kept_{executor}", f"mlflow_{executor}"):
        dump_of = postgres.dump(database)
        assert "COPY" in dump_of
        assert PLANTED not in dump_of
        assert PASSWORD not in dump_of


@pytest.mark.ray
def test_a_refused_submission_leaves_no_secret_there(token_cluster, tmp_path: Path) -> None:
    config = tmp_path / "toy.yaml"
    config.write_text(dump(tiny.config()))
    env = dict(token_cluster.env) | {"FEWTUNE_DATA": f"https://host/d?sv=1&sig={PLANTED}"}
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "orchestrator.cli", "submit", str(config)]
    command += ["--address", token_cluster.address, "--home", str(tmp_path / "home")]
    code, lines = observed(command, env, tmp_path / "said")
    said = (tmp_path / "said").read_text()
    assert code == 2, said
    assert "FEWTUNE_DATA" in said
    assert not [line for line in lines if PLANTED in line]
    assert list(with_secret(tmp_path)) == []
    assert list(with_secret(token_cluster.folder)) == []
