"""A PostgreSQL server of the tests' own, which they may stop, restart and cut off.

A test module that says `pytest_plugins = ["tests.orchestrator.postgres"]` has the fixture.
"""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import missing

USER = "postgres"  # the server refuses to run as root
PASSWORD = "planted-4f0a9c"  # nobody is asked for it: the server trusts this machine


@dataclass(frozen=True)
class Postgres:
    bin: Path
    folder: Path
    port: int

    def url(self, database: str) -> str:
        """The URL of a database, with a password."""
        return f"postgresql+psycopg://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        # The log takes the server's output, which would keep our pipe open.
        wait = ("-w", "-t", "120", "-l", self.folder / "log")
        self._run("pg_ctl", "-D", self.folder / "data", *wait, "-o", options, "start")

    def stop(self) -> None:
        """As after a power failure: nobody is asked to leave, and nothing is written any more."""
        self._run("pg_ctl", "-D", self.folder / "data", "-w", "-m", "immediate", "stop")

    def create(self, database: str) -> str:
        """A new database; returns its URL."""
        self.sql(f"CREATE DATABASE {database}")
        return self.url(database)

    def terminate(self, database: str) -> int:
        """Cut all connections to a database; returns how many there were."""
        said = self.sql(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            f"WHERE datname = '{database}' AND pid <> pg_backend_pid()"
        )
        return int(said)

    def sql(self, statement: str, database: str = "postgres") -> str:
        """What a statement gives, as text without headings."""
        where = ["-h", "127.0.0.1", "-p", str(self.port), "-U", USER, "-d", database]
        return self._run("psql", "-q", "-A", "-t", *where, "-c", statement).strip()

    def dump(self, database: str) -> str:
        """All that a database has, as SQL."""
        where = ["-h", "127.0.0.1", "-p", str(self.port), "-U", USER]
        return self._run("pg_dump", *where, database)

    def initialise(self) -> None:
        self._run("initdb", "-D", self.folder / "data", "-A", "trust", "-U", USER, "--no-sync")

    def _run(self, program: str, *words: object) -> str:
        command = [*_as_user(), str(self.bin / program), *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.folder, timeout=200)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def _as_user() -> Sequence[str]:
    if os.geteuid() != 0:
        return []
    return ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--init-groups"]


def _bin() -> Path | None:
    """Debian keeps the programs of a server out of the PATH."""
    for folder in [*sorted(Path("/usr/lib/postgresql").glob("*/bin")), None]:
        found = shutil.which("pg_ctl", path=None if folder is None else str(folder))
        if found:
            return Path(found).resolve().parent
    return None


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A running server without databases of ours."""
    bin = _bin()
    if bin is None:
        missing("PostgreSQL: its pg_ctl")
    if find_spec("psycopg") is None:
        missing("psycopg: the extra `postgres`")
    assert bin is not None
    folder = Path(tempfile.mkdtemp(prefix="ftpg", dir="/tmp"))  # a socket's path must be short
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, USER, USER)
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            server = Postgres(bin, folder, free.getsockname()[1])
        server.initialise()
        server.start()
        yield server
        server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
