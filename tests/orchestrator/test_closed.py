"""What listens where, and whom it lets in."""

import http.client
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest

from orchestrator.config.loading import dump
from orchestrator.record.home import Home
from orchestrator.record.search_records import read_records
from orchestrator.tracking.dashboard import _free_port, server
from orchestrator.tracking.mlflow_client import connect
from tests.orchestrator import tiny
from tests.orchestrator.executors.test_local_ray import is_loopback, listening
from tests.paths import ROOT

pytest_plugins = ["tests.orchestrator.token_cluster"]

# A call of each kind of Ray's processes. The health checks are open by design: they say nothing.
CALLS = (
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "/ray.rpc.JobInfoGcsService/GetAllJobInfo",
    "/ray.rpc.InternalKVGcsService/InternalKVKeys",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.NodeManagerService/ShutdownRaylet",
    "/ray.rpc.ObjectManagerService/Pull",
    "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
    "/ray.rpc.CoreWorkerService/Exit",
    "/ray.rpc.ReporterService/GetTraceback",
    "/ray.rpc.RayletDriver/ClusterInfo",
)
# The dashboard's first page is open: it asks for the token.
PATHS = ("/api/jobs/", "/api/version", "/nodes", "/metrics", "/api/job_agent/jobs/")


@pytest.mark.slow
def test_a_dashboard_listens_on_the_loopback_interface_only(tmp_path: Path) -> None:
    connect(Home(tmp_path).tracking_uri)  # here, where the database is copied
    with closing(server(tmp_path, _free_port("127.0.0.1", 0))) as running:
        running.wait(timeout=250)
        found = listening(running.process.pid)
    assert found
    assert not [each for each in found if not is_loopback(each[1].ip)]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_search_listens_on_the_loopback_interface_only(tmp_path: Path) -> None:
    """With all that a search starts: Ray, its workers, MLflow's sender."""
    config, home = tmp_path / "toy.yaml", tmp_path / "home"
    config.write_text(dump(tiny.config(steps=100_000)))
    connect(Home(home).tracking_uri)  # here, where the database is copied
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env |= {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "orchestrator.cli", "search", str(config), "--home", str(home)]
    process = subprocess.Popen(
        command, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 500
        while not (records := read_records("toy", Home(home))) or not len(records.search):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.5)
        found = listening(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=200)
    assert {"gcs_server", "raylet"} <= {name for name, _ in found}, said
    assert not [each for each in found if not is_loopback(each[1].ip)]


@pytest.mark.ray
class TestATokenCluster:
    @pytest.fixture
    def ports(self, token_cluster) -> dict[int, str]:
        """The processes that listen, by port."""
        deadline = time.monotonic() + 200
        while not any("DashboardAgent" in name for name, _ in listening(token_cluster.pid)):
            assert time.monotonic() < deadline, listening(token_cluster.pid)
            time.sleep(0.5)
        found = listening(token_cluster.pid)
        assert {"gcs_server", "raylet"} <= {name for name, _ in found}
        assert not [each for each in found if not is_loopback(each[1].ip)]
        return {laddr.port: name for name, laddr in found}

    def test_a_stranger_is_refused_on_every_port(self, ports: dict[int, str]) -> None:
        answers = {port: (name, _of_grpc(port), _of_http(port)) for port, name in ports.items()}
        refused = {port: _refuses(*found) for port, (_, *found) in answers.items()}
        assert all(refused.values()), {port: answers[port] for port in refused if not refused[port]}


def _of_grpc(port: int) -> set[str]:
    """The statuses of calls without a token; OK would let a stranger in."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        return {_status(channel, call) for call in CALLS}


def _status(channel: Any, call: str) -> str:
    try:
        channel.unary_unary(call)(b"", timeout=10)
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


def _of_http(port: int) -> dict[str, int]:
    """The statuses of requests without a token, if HTTP is spoken there; 0 for metrics.

    The head's processes give Prometheus their metrics, whoever asks and at any path. There is
    nothing else at those ports.
    """
    found = {}
    for path in PATHS:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
                metrics = "version=" in answer.headers.get("Content-Type", "")
                found[path] = 0 if metrics else answer.status
        except urllib.error.HTTPError as error:
            found[path] = error.code
        except (OSError, http.client.HTTPException):  # HTTP is not spoken
            pass
    return found


def _refuses(of_grpc: set[str], of_http: dict[str, int]) -> bool:
    """Whether no call was answered, and one was refused for want of a token."""
    if set(of_http.values()) == {0}:
        return "OK" not in of_grpc
    answered = "OK" in of_grpc or 200 in of_http.values()
    return not answered and ("UNAUTHENTICATED" in of_grpc or 401 in of_http.values())
