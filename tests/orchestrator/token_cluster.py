"""A head that asks for a token, on ports of its own, and clients of it that are other processes.

Whether a process sends a token is settled when it imports Ray; this one has settled for no token.
So clients with a token, with another, and with none are processes of their own.

A test module that says `pytest_plugins = ["tests.orchestrator.token_cluster"]` has the fixtures;
all such modules share one head.
"""

import importlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

AUTHENTICATION = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
BIN = Path(sys.executable).parent
START_SECONDS = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCluster:
    """Where the head is, and what one needs to be let in."""

    address: str  # of the dashboard, for `--address`
    token_file: Path
    folder: Path  # of Ray's files, and of anything else of a test
    pid: int  # of `ray start --block`
    env: Mapping[str, str]  # a whole environment for a process that may talk to the cluster

    def ask(self, path: str) -> int:
        """The HTTP status of a request without a token."""
        try:
            with urllib.request.urlopen(self.address + path, timeout=5) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code


class Client:
    """Another process that calls functions with an environment of its own."""

    def __init__(self, env: Mapping[str, str]) -> None:
        context = get_context("spawn")  # a fork would inherit this process's Ray
        self._pool = ProcessPoolExecutor(1, context, _become, (dict(env),))

    def __call__(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return self._pool.submit(function, *args, **kwargs).result(timeout=120)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


def _become(env: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(env)


@pytest.fixture(scope="session")
def token_cluster() -> Iterator[TokenCluster]:
    """A running head of one CPU that asks for a token. Nothing of it is left afterwards."""
    with ExitStack() as stack:
        # Directly in /tmp: a socket's path may have 107 characters, and Ray adds some 70.
        folder = Path(tempfile.mkdtemp(prefix="ftc", dir="/tmp"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        token_file = folder / "auth_token"
        token_file.touch(mode=0o600)
        token_file.write_text(secrets.token_hex(32))
        env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        env |= {
            "HOME": str(folder),  # no token of the user's home
            "PATH": f"{BIN}:{env.get('PATH', '')}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token_file),
            # Else `ray start` takes this machine's address in place of 127.0.0.1.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_TMPDIR": str(folder),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        pid, address = stack.enter_context(_head(folder, env))
        yield TokenCluster(address=address, token_file=token_file, folder=folder, pid=pid, env=env)


@pytest.fixture(scope="session")
def with_token(token_cluster: TokenCluster) -> Iterator[Client]:
    """A client that has the token."""
    with closing(Client(token_cluster.env)) as client:
        yield client


@pytest.fixture(scope="session")
def without_token(token_cluster: TokenCluster) -> Iterator[Client]:
    """A client that knows of no token."""
    env = {name: value for name, value in token_cluster.env.items() if name not in AUTHENTICATION}
    with closing(Client(env)) as client:
        yield client


@pytest.fixture(scope="session")
def with_another_token(token_cluster: TokenCluster) -> Iterator[Client]:
    """A client that has a token, but not this cluster's."""
    with closing(Client({**token_cluster.env, "RAY_AUTH_TOKEN": secrets.token_hex(32)})) as client:
        yield client


@contextmanager
def _head(folder: Path, env: Mapping[str, str]) -> Iterator[tuple[int, str]]:
    ports = _free_ports(8)
    options = {
        "node-ip-address": "127.0.0.1",
        "port": ports[0],
        "dashboard-host": "127.0.0.1",
        "dashboard-port": ports[1],
        "dashboard-agent-listen-port": ports[2],
        "dashboard-agent-grpc-port": ports[3],
        "runtime-env-agent-port": ports[4],
        "metrics-export-port": ports[5],
        "node-manager-port": ports[6],
        "object-manager-port": ports[7],
        "min-worker-port": 0,  # any
        "max-worker-port": 0,
        "num-cpus": 1,
        "num-gpus": 0,
        "object-store-memory": 80 * 2**20,
        "temp-dir": folder,
    }
    words = [f"--{name}={value}" for name, value in options.items()]
    log = folder / "ray_start.log"
    address = f"http://127.0.0.1:{ports[1]}"
    with log.open("w") as output:
        head = subprocess.Popen(
            [BIN / "ray", "start", "--head", "--block", *words],
            env=env,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_until_it_answers(head, address, log)
        yield head.pid, address
    finally:
        _end(head, folder)


def _wait_until_it_answers(head: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if head.poll() is not None:
            break
        try:
            urllib.request.urlopen(address + "/api/version", timeout=5).close()
        except urllib.error.HTTPError:  # refuses us: it is up
            return
        except OSError:
            time.sleep(0.2)
        else:
            pytest.fail("The head lets everybody in: it is not in token mode.")
    pytest.fail(f"The head did not start:\n{log.read_text()[-3000:]}")


def _end(head: subprocess.Popen[bytes], folder: Path) -> None:
    """End the head and everything it started, of which some are in sessions of their own."""
    psutil = _psutil()
    started = _descendants(head.pid, folder)
    head.terminate()
    try:
        head.wait(20)
    except subprocess.TimeoutExpired:
        head.kill()
        head.wait()
    _, alive = psutil.wait_procs(started, timeout=15)
    for process in alive:
        process.kill()
    _, alive = psutil.wait_procs(alive, timeout=5)
    assert not alive, f"left behind: {alive}"


def _descendants(pid: int, folder: Path) -> list[Any]:
    """By parent, or, for those that lost it, by the folder in their environment."""
    psutil = _psutil()
    found = {}
    if psutil.pid_exists(pid):
        found = {child.pid: child for child in psutil.Process(pid).children(recursive=True)}
    for process in psutil.process_iter():
        try:
            if process.environ().get("RAY_TMPDIR") == str(folder) and process.pid != pid:
                found[process.pid] = process
        except psutil.Error:
            continue
    return [process for process in found.values() if process.pid != os.getpid()]


def _psutil() -> Any:
    """Ray's copy, which is there once Ray is imported."""
    importlib.import_module("ray")
    return importlib.import_module("psutil")


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(closing(socket.socket())) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
