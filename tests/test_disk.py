"""A full disk, and a place that may not be written to: one sentence, and the search goes on."""

import errno
import json
import os
import pickle
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from optuna.exceptions import StorageInternalError
from ray.exceptions import RayTaskError
from safetensors import SafetensorError
from safetensors.numpy import save_file
from sqlalchemy.exc import OperationalError

from fewshot.errors.disk import disk_problem
from fewshot.errors.inputs import InputError
from orchestrator.cli import app as cli
from orchestrator.config.loading import dump
from orchestrator.record.disk_errors import disk_error
from orchestrator.record.home import Home
from orchestrator.record.studies.journal import _File
from orchestrator.tracking import mlflow_runs as recording
from orchestrator.tracking.mlflow_client import connect
from orchestrator.tracking.sending import outbox
from tests.orchestrator.tiny import config, quiet


@pytest.fixture(autouse=True)
def _no_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEWTUNE_STORAGE", raising=False)
    monkeypatch.setattr("orchestrator.tracking.sending.mlflow_sender.recorder", quiet)


@pytest.fixture
def search(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """`fewtune search` of a small config, in this process."""
    given = tmp_path / "toy.yaml"
    given.write_text(dump(config()))

    def call(home: Path, *options: str) -> "subprocess.CompletedProcess[str]":
        words = ["search", str(given), "--executor", "inline", "--home", str(home), *options]
        code = cli.main(words)
        said = capsys.readouterr()
        return subprocess.CompletedProcess(words, code, said.out, said.err)

    return call


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A small file system of its own, with the options of `mount`; again, to change them."""
    place = tmp_path / "mounted"
    place.mkdir()
    mounts: list[str] = []

    def mount(options: str) -> Path:
        again = ["-o", f"remount,{options}"] if mounts else ["-o", options]
        done = subprocess.run(["mount", "-t", "tmpfs", *again, "tmpfs", place], capture_output=True)
        if done.returncode:
            pytest.skip("needs the right to mount a file system")
        mounts.append(options)
        return place

    yield mount
    if mounts:
        subprocess.run(["umount", "-l", place], check=True)


def sentence(done: "subprocess.CompletedProcess[str]") -> str:
    """The one that is said of what failed."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("failed")]
    return said


def fill(place: Path, *, leaving: int) -> None:
    """Take all but so many bytes of the space that is left there."""
    free = os.statvfs(place).f_bavail * os.statvfs(place).f_bsize
    (place / "fill").write_bytes(bytes(free - leaving))


def complete(search: Callable[..., Any], home: Path) -> None:
    """The search goes on, however far it had come."""
    done = search(home, "--json", "--resume")
    if "there is no such search" in done.stderr or "there is no study" in done.stderr:
        done = search(home, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["state"] == "complete"


def test_a_disk_that_is_full_sooner_or_later_is_said_and_the_search_goes_on(
    search: Callable[..., Any], mounted: Callable[[str], Path]
) -> None:
    place, named = mounted("size=64m"), set()
    for kilobytes in (0, 8, 24, 48):
        home = place / str(kilobytes)
        home.mkdir()
        fill(place, leaving=1024 * kilobytes)
        said = sentence(search(home))
        assert "No space left on device. Free some space" in said
        named.add(Path(said.split()[1]).relative_to(home).name)
        (place / "fill").unlink()
        complete(search, home)
    assert len(named) > 2, named


@pytest.mark.parametrize(
    ("writer", "after"),
    [
        # By default one place for each writer.
        pytest.param(writer, after, marks=() if after == first else pytest.mark.slow)
        for writer, first in [
            ((_File, "append_logs"), 3),
            ((outbox.Outbox, "append"), 0),
            ((recording.OutboxRecorder, "trial_ended"), 3),
            ((os, "fsync"), 0),
        ]
        for after in (0, 3)
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else None,
)
def test_whichever_writer_finds_the_disk_full_the_search_goes_on(
    search: Callable[..., Any], tmp_path: Path, writer: tuple[Any, str], after: int
) -> None:
    owner, name = writer
    write, calls = getattr(owner, name), iter(range(after))

    def full(*arguments: Any, **options: Any) -> Any:
        if next(calls, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, full)
        said = sentence(search(tmp_path / "home"))
    assert str(tmp_path / "home") in said
    assert "No space left" in said
    complete(search, tmp_path / "home")


def test_a_checkpoint_for_which_there_is_no_space_ends_the_search_with_its_path(
    search: Callable[..., Any], tmp_path: Path
) -> None:
    checkpoints = Home(tmp_path).checkpoints("toy")
    checkpoints.mkdir(parents=True)
    (checkpoints / "search-0001.partial").symlink_to("/dev/full")
    assert f"{checkpoints / 'search-0001.safetensors'} can't be written" in sentence(
        search(tmp_path)
    )
    complete(search, tmp_path)


@pytest.mark.ray
def test_so_it_is_said_of_a_worker_that_ray_runs(
    search: Callable[..., Any], tmp_path: Path
) -> None:
    given, checkpoints = tmp_path / "ray.yaml", Home(tmp_path).checkpoints("toy")
    given.write_text(dump(config()))
    connect(Home(tmp_path).tracking_uri)  # here, where the database is copied
    checkpoints.mkdir(parents=True)
    (checkpoints / "search-0001.partial").symlink_to("/dev/full")
    command = [sys.executable, "-m", "orchestrator.cli", "search", given, "--home", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert f"{checkpoints / 'search-0001.safetensors'} can't be written" in sentence(done)
    complete(search, tmp_path)


def test_a_full_database_of_the_studies_is_said_and_the_search_goes_on(
    search: Callable[..., Any],
    mounted: Callable[[str], Path],
    study_database: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = mounted("size=8m")
    monkeypatch.setenv("FEWTUNE_STORAGE", f"sqlite:///{place / 'x.db'}")
    shutil.copy(study_database, place / "x.db")
    fill(place, leaving=0)
    said = sentence(search(tmp_path / "home"))
    assert f"failed sqlite:///{place / 'x.db'} can't be" in said
    (place / "fill").unlink()
    complete(search, tmp_path / "home")


def test_a_home_that_is_read_only_can_be_read(
    search: Callable[..., Any], mounted: Callable[[str], Path], capsys: Any, tmp_path: Path
) -> None:
    home = mounted("size=8m,mode=777")
    assert search(home).returncode == 0
    mounted("ro")
    assert cli.main(["show", "toy", "--home", str(home)]) == 0
    assert cli.main(["export", "toy", "--out", str(tmp_path / "out"), "--home", str(home)]) == 0
    capsys.readouterr()
    for words in (["--set", "name=new"], []):
        said = sentence(search(home, *words))
        assert f"failed {home}/" in said
        assert "Read-only file system" in said
        assert "--home DIR" in said
    code = cli.main(["export", "toy", "--out", str(home / "out"), "--home", str(home)])
    assert code == 1
    assert "out.partial can't be used: Read-only file system" in capsys.readouterr().err


def test_a_home_where_no_folder_can_be_made_is_said(search: Callable[..., Any]) -> None:
    assert "failed /proc/home can't be used" in sentence(search(Path("/proc/home")))


def test_a_home_below_a_file_is_bad_input(search: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = search(tmp_path / "file" / "deep" / "home")
    assert done.returncode == 2
    assert f"but {tmp_path / 'file'} is a file" in done.stderr


# ---- however it is wrapped ---------------------------------------------------------------------


def raised(by: Callable[[], Any]) -> BaseException:
    with pytest.raises(Exception) as error:  # noqa: PT011 (whatever it is)
        by()
    return error.value


def wrapped(inner: BaseException, outer: BaseException) -> BaseException:
    def fail() -> None:
        try:
            raise inner
        except BaseException as error:
            raise outer from error

    return raised(fail)


def sqlite_error(path: Path, statement: str) -> BaseException:
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE IF NOT EXISTS t (x)")
    return raised(lambda: database.executescript(statement))


def temporary_folder(of: Path) -> None:
    """As `tempfile` says that it can write to no folder."""
    text = f"No usable temporary directory found in {[str(of), '/var/tmp']}"
    raise FileNotFoundError(errno.ENOENT, text)


FILLING = "PRAGMA max_page_count = 3; INSERT INTO t VALUES (zeroblob(99999)); COMMIT;"


def test_an_error_is_recognised_in_every_wrapping(tmp_path: Path) -> None:
    at = OSError(errno.ENOSPC, "No space left", "/a/b")
    full = sqlite_error(tmp_path / "x.db", FILLING)
    readonly = sqlite_error(tmp_path / "x.db", "PRAGMA query_only = 1; INSERT INTO t VALUES (1);")
    from_rust = raised(lambda: save_file({"a": np.zeros(1)}, "/dev/full/x"))
    assert isinstance(from_rust, SafetensorError)
    by_sqlalchemy = wrapped(full, OperationalError("INSERT", {}, full))
    rust_full = SafetensorError("I/O error: No space left on device (os error 28)")
    by_ray = RayTaskError("turn", "Traceback ...", pickle.loads(pickle.dumps(at)))
    full_disk = OSError(errno.ENOSPC, "No space left")
    cases = [
        (full_disk, errno.ENOSPC, None),
        (at, errno.ENOSPC, "/a/b"),
        (wrapped(at, RuntimeError("x")), errno.ENOSPC, "/a/b"),
        (wrapped(at, OSError(errno.ENOSPC, "full")), errno.ENOSPC, "/a/b"),
        (by_ray, errno.ENOSPC, "/a/b"),
        (by_ray.as_instanceof_cause(), errno.ENOSPC, "/a/b"),
        (full, errno.ENOSPC, None),
        (wrapped(by_sqlalchemy, StorageInternalError("x")), errno.ENOSPC, None),
        (readonly, errno.EROFS, None),
        (rust_full, errno.ENOSPC, None),
        (OSError(errno.EROFS, "ro", "/a"), errno.EROFS, "/a"),
        (PermissionError(errno.EACCES, "no", "/a"), errno.EACCES, "/a"),
        (OSError(errno.EFBIG, "big"), errno.EFBIG, None),
        (OSError(errno.EDQUOT, "quota"), errno.EDQUOT, None),
        (raised(lambda: temporary_folder(tmp_path)), errno.ENOSPC, str(tmp_path)),
        (raised(lambda: torch.save(torch.zeros(9), "/dev/full")), errno.ENOSPC, None),
        (raised(lambda: np.zeros(99999).tofile("/dev/full")), errno.ENOSPC, None),
    ]
    for error, number, path in cases:
        found = disk_problem(error)
        assert found is not None, repr(error)
        assert (found.errno, found.path) == (number, path)


def test_other_errors_are_not_taken_for_it(tmp_path: Path) -> None:
    others = [
        ValueError("x"),
        KeyError("disk"),
        PermissionError(errno.EPERM, "kill"),
        ConnectionRefusedError(errno.ECONNREFUSED, "no"),
        FileNotFoundError(errno.ENOENT, "no", "/somewhere/else"),
        sqlite_error(tmp_path / "x.db", "SELECT nothing FROM nowhere"),
        wrapped(ValueError("a"), RuntimeError("b")),
    ]
    for error in others:
        assert disk_error(error, tmp_path) is None, repr(error)


def test_a_password_in_the_storages_address_is_not_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEWTUNE_STORAGE", "postgresql://me:secret@db/x")
    found = disk_error(RuntimeError("could not extend: No space left on device"), Path("/home"))
    assert str(found).startswith("postgresql://me:***@db/x can't be written")


def test_an_input_error_stays_one() -> None:
    assert disk_error(InputError([]), Path("/home")) is None
