"""What a search of `chaos.py` rests on: PostgreSQL, an MLflow server, and a cluster of three nodes.

All of it runs on this machine, on ports of its own, and ends with the benchmark.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import psycopg

from orchestrator.tracking.dashboard import ENVIRONMENT

START_SECONDS = 240  # on a busy machine, the start of a node of Ray takes a minute
USER = "postgres"  # the server refuses to run as root
NODES = 3
_STARTS = 8  # of a node of Ray, which gives up after 30 s: too early on a busy machine
_MARK = "CHAOS_SERVICE"  # the environment variable of the processes of one service
ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


class DidNotStart(Exception):
    """A service is not ready in time."""


@dataclass
class Service:
    """A process, with all that it starts.

    ready: whether it can be used; it is asked again and again.
    """

    name: str
    command: Sequence[object]
    env: Mapping[str, str]
    log: Path
    ready: Callable[["Service"], bool]
    process: "subprocess.Popen[bytes] | None" = field(default=None, init=False)
    closed: bool = field(default=False, init=False)
    said_before: int = field(default=0, init=False)  # bytes of the log, in earlier lives

    @property
    def said(self) -> str:
        """Its output since its start."""
        return self.log.read_bytes()[self.said_before :].decode(errors="replace")

    def __post_init__(self) -> None:
        self.env = {**self.env, _MARK: secrets.token_hex(8)}

    def start(self) -> None:
        if self.closed:
            raise DidNotStart(f"{self.name}: the benchmark ends")
        with self.log.open("ab") as output:
            self.said_before = output.tell()
            self.process = subprocess.Popen(
                [str(word) for word in self.command],
                env=dict(self.env),
                cwd=self.log.parent,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Wait until it is ready; raises DidNotStart."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.alive:
            if self.ready(self):
                return
            time.sleep(0.2)
        self.kill()
        raise DidNotStart(f"{self.name}: {self.said[-1000:]}")

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def tree(self) -> list[psutil.Process]:
        """Its processes that run now."""
        if self.process is None:
            return []
        try:
            root = psutil.Process(self.process.pid)
            return [each for each in [root, *root.children(recursive=True)] if runs(each)]
        except psutil.NoSuchProcess:
            return []

    def part(self, name: str) -> psutil.Process | None:
        """The process with this name."""
        return next((each for each in self.tree() if named(each) == name), None)

    def kill(self) -> None:
        """End all of its processes, also those that are stopped or have lost their parent."""
        signalled(self.tree(), signal.SIGKILL)
        if self.process is not None:
            self.process.wait()
        signalled(filter(self._has_mark, psutil.process_iter()), signal.SIGKILL)

    def close(self) -> None:
        """End it for good."""
        self.closed = True
        self.kill()

    def _has_mark(self, process: psutil.Process) -> bool:
        with suppress(psutil.Error, OSError):
            return bool(process.environ().get(_MARK) == self.env[_MARK])
        return False


def runs(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def named(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return str(process.name())
    return ""


def title(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def signalled(processes: Iterable[psutil.Process], number: int) -> None:
    """Send a signal to all of them that run."""
    for process in processes:
        with suppress(psutil.Error):
            process.send_signal(number)


def postgres(folder: Path) -> tuple[Service, int]:
    """A PostgreSQL server with an empty data folder below `folder`, and its port."""
    bin = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"))), None)
    found = shutil.which("postgres", path=str(bin)) or shutil.which("postgres")
    if found is None:
        raise SystemExit("chaos.py needs PostgreSQL: its `postgres` and `initdb`.")
    programs = Path(found).resolve().parent
    home, user = folder / "postgres", list[str]()
    home.mkdir()
    if os.geteuid() == 0:
        user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--init-groups"]
        folder.chmod(0o755)
        shutil.chown(home, USER, USER)
    initdb = [*user, programs / "initdb", "-D", home / "data", "-A", "trust", "-U", USER, "-N"]
    subprocess.run(initdb, check=True, cwd=home, stdout=subprocess.DEVNULL)
    (port,) = free_ports(1)
    options = ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "max_connections=60"]
    command = [*user, programs / "postgres", "-D", home / "data", "-p", port, "-k", home, *options]

    def ready(service: Service) -> bool:
        with suppress(psycopg.Error):
            sql(port, "SELECT 1")
            return True
        return False

    return Service("postgres", command, os.environ, folder / "postgres.log", ready), port


def url(port: int, database: str) -> str:
    return f"postgresql+psycopg://{USER}@127.0.0.1:{port}/{database}"


def sql(port: int, statement: str) -> None:
    where = f"host=127.0.0.1 port={port} user={USER} dbname=postgres connect_timeout=5"
    with psycopg.connect(where, autocommit=True) as connection:
        connection.execute(statement)


def mlflow(folder: Path, store: str) -> tuple[Service, str]:
    """An MLflow server that keeps its runs in the database `store`, and its address."""
    (port,) = free_ports(1)
    address = f"http://127.0.0.1:{port}"
    command: list[object] = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
    command += ["--host", "127.0.0.1", "--port", port, "--backend-store-uri", store]
    command += ["--artifacts-destination", (folder / "artifacts").as_uri()]
    env = {**os.environ, **ENVIRONMENT, "PATH": f"{BIN}:{os.environ.get('PATH', '')}"}

    def ready(service: Service) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=2):
            return True
        return False

    return Service("mlflow", command, env, folder / "mlflow.log", ready), address


class Cluster:
    """Three nodes of Ray with one CPU each, and a token. The first is the head."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        token = folder / "auth_token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.env = own | {
            "PATH": f"{BIN}:{own.get('PATH', '')}",
            "PYTHONPATH": str(ROOT),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",  # more than one node
            "RAY_TMPDIR": str(folder),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_agent_register_timeout_ms": str(1000 * START_SECONDS),
        }
        (port,) = free_ports(1)
        self.address = f"{_host(0)}:{port}"
        self.nodes = [self._node(folder, number) for number in range(NODES)]

    @property
    def head(self) -> Service:
        return self.nodes[0]

    def _node(self, folder: Path, number: int) -> Service:
        names = ["dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port"]
        names += ["runtime-env-agent-port", "node-manager-port", "object-manager-port"]
        options: dict[str, object] = dict(zip(names, free_ports(len(names)), strict=True))
        options |= {"node-ip-address": _host(number), "min-worker-port": 0, "max-worker-port": 0}
        options |= {"num-cpus": 1, "num-gpus": 0, "object-store-memory": 80 * 2**20}
        options["include-log-monitor"] = "false"  # a search does not read the logs of workers
        if number:
            options["address"] = self.address
        else:
            options |= {"port": self.address.partition(":")[2], "include-dashboard": "false"}
            options |= {"ray-client-server-port": free_ports(1)[0], "temp-dir": folder}
        # Without the autoscaler's monitor, which has nothing to scale here.
        command = [BIN / "ray", "start", "--block", *([] if number else ["--head", "--no-monitor"])]
        command += [f"--{name}={value}" for name, value in options.items()]

        def ready(service: Service) -> bool:
            return "Ray runtime started" in service.said

        return Service(f"node {number}", command, self.env, folder / f"node_{number}.log", ready)

    def start(self) -> None:
        """Start all nodes."""
        for node in self.nodes:
            persistently(node)

    def kill(self) -> None:
        for node in reversed(self.nodes):
            node.kill()

    def close(self) -> None:
        for node in reversed(self.nodes):
            node.close()

    def workers(self) -> list[psutil.Process]:
        """The workers of the search, on all nodes."""
        processes = [process for node in self.nodes for process in node.tree()]
        return [process for process in processes if title(process).startswith("ray::RayWorker")]


def _host(node: int) -> str:
    """An address of its own for each node; Ray would replace 127.0.0.1 by the machine's address."""
    return f"127.0.0.{2 + node}"


def persistently(service: Service) -> None:
    """Start a service; if it does not start, again."""
    for left in reversed(range(_STARTS)):
        service.start()
        try:
            service.wait()
        except DidNotStart:
            if not left or service.closed:
                raise
        else:
            return


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(closing(socket.socket())) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
