"""The dashboard of a home folder: an MLflow server in a separate process."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

from fewshot.errors.inputs import FewtuneError
from orchestrator.tracking.mlflow_client import connect, tune
from orchestrator.tracking.saved_views import view_id

APP = "fewtune"  # the name of `server_app` as a plugin of MLflow, in pyproject.toml
ENVIRONMENT = {
    # Job execution would start ten more processes, for LLM judges that we do not use.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


def tracking_uri(home: Path) -> str:
    """The tracking URI of the database in a home folder on one machine."""
    return f"sqlite:///{home.resolve() / 'mlflow.db'}"


@dataclass(frozen=True, slots=True)
class Server:
    """A running dashboard. The code that started it must close it."""

    process: "subprocess.Popen[bytes]"
    base: str  # http://host:port
    log: Path

    @property
    def url(self) -> str:
        """The page with the list of experiments, in MLflow's layout for model training."""
        return (
            f"{self.base}/?workflowType=machine_learning#/experiments?workflowType=machine_learning"
        )

    def wait(self, timeout: float) -> None:
        """Wait until pages are served; raises FewtuneError after `timeout` seconds."""
        end = time.monotonic() + timeout
        while self.process.poll() is None and time.monotonic() < end:
            try:
                with urllib.request.urlopen(f"{self.base}/health", timeout=5):  # noqa: S310
                    return
            except OSError:
                time.sleep(0.2)
        raise FewtuneError(
            f"The dashboard did not answer at {self.base} within {timeout:.0f} s"
            f" (exit code {self.process.poll()}); see {self.log}."
        )

    def close(self) -> None:
        """Stop the server and its workers."""
        self.process.terminate()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def server(home: Path, port: int, host: str = "127.0.0.1") -> Server:
    """Start the dashboard of `home`; uses a different port if `port` is taken."""
    connect(tracking_uri(home))  # creates a new database here, before several processes use it
    tune(tracking_uri(home))  # a search that runs now, or was killed, has not done it
    port = _free_port(host, port)
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
    if entry_points(group="mlflow.app", name=APP):  # not before the package is installed again
        command += ["--app-name", APP]
    command += ["--host", host, "--port", str(port)]
    command += ["--backend-store-uri", tracking_uri(home)]
    command += ["--artifacts-destination", (home.resolve() / "mlartifacts").as_uri()]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = os.environ | ENVIRONMENT | {"PATH": path}  # MLflow calls `uvicorn` by name
    path_of_log = home / "dashboard.log"
    with path_of_log.open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    return Server(process, f"http://{host}:{port}", path_of_log)


def search_url(base: str, tracking_uri: str, experiment: str, search: str) -> str:
    """The page with a search's trials, best first; `base`: the address of the server.

    Raises FewtuneError if there is no such experiment.
    """
    record = connect(tracking_uri).get_experiment_by_name(experiment)
    if record is None:
        raise FewtuneError(f"No experiment {experiment!r} is recorded at {tracking_uri}.")
    query = f"workflowType=machine_learning&viewStateShareKey={view_id(search, 'trials')}"
    return f"{base}/#/experiments/{record.experiment_id}/runs?{query}"


def _free_port(host: str, wanted: int) -> int:
    """`wanted` if it is free, else any free port."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise FewtuneError(f"No port is free on {host}.")
