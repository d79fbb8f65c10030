"""A search that is asked to stop: by whom, when, and what it leaves."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from orchestrator import launch
from orchestrator.cli.output import Output
from orchestrator.cli.searches import _interruptible
from orchestrator.record.home import Home
from orchestrator.record.search_records import read_records
from orchestrator.tracking.sending import mlflow_sender as tracking
from tests.orchestrator.cli.test_cli import QUICKSTART, called, sets
from tests.paths import ROOT

__all__ = ["called"]  # a fixture


def on_hangup(action):
    """For a child: what it inherits of SIGHUP, whatever this process does (as under nohup)."""
    return lambda: signal.signal(signal.SIGHUP, action)


# Too long to end by itself. Its trials report every 60 steps, after which a search inline looks for
# signals, and none of them is stopped early.
ENDLESS = sets(
    steps=6000, search__rungs=[n / 100 for n in range(1, 100)], search__reference_trials=9
)


@contextmanager
def searching(home, *, executor, action=signal.SIG_DFL, **options):
    """A search of quickstart as the leader of a session of its own, too long to end by itself."""
    command = [sys.executable, "-m", "orchestrator.cli", "search", QUICKSTART]
    command += ["--executor", executor, "--home", home, *ENDLESS]
    process = subprocess.Popen(
        [str(word) for word in command],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        start_new_session=True,
        preexec_fn=on_hangup(action),
        **{"text": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE} | options,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def trains(home):
    """Whether a trial has reported."""
    records = read_records("quickstart", Home(home))
    return records is not None and any(t.reports for t in records.search.trials())


def wait_until(condition, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def assert_stopped_cleanly(process, home):
    said = process.stderr.read()
    assert process.wait(60) == 130, said
    assert "Traceback" not in said
    assert "SIGTERM received" not in said
    assert said.count("To resume: fewtune search") == 1
    assert said.rstrip().endswith("--resume")
    assert_nothing_runs(home)
    return said


def assert_nothing_runs(home):
    counts = tracking.counts(Home(home).tracking_uri, "quickstart")
    assert counts["search"] == {"KILLED": 1}
    assert counts["trial"]["KILLED"] > 0
    assert "RUNNING" not in counts["trial"]


def alive_of_session(leader):
    """Command lines of the processes of a session, but of zombies."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if folder.name.isdigit() and fields[0] != "Z" and int(fields[3]) == leader:
                found.append((folder / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_search_stops_cleanly_inline(tmp_path, home_set_up, number):
    home_set_up(tmp_path)
    with searching(tmp_path, executor="inline") as process:
        wait_until(lambda: trains(tmp_path), process)
        process.send_signal(number)
        assert_stopped_cleanly(process, tmp_path)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize(
    ("number", "send"),
    [(signal.SIGTERM, os.kill), (signal.SIGHUP, os.killpg), (signal.SIGTERM, os.killpg)],
    ids=["SIGTERM", "SIGHUP to all", "SIGTERM to all"],
)
def test_a_search_on_ray_stops_cleanly(tmp_path, home_set_up, number, send):
    """To all processes of the group, as terminals and `timeout` do: those of Ray are in it."""
    home_set_up(tmp_path)
    with searching(tmp_path, executor="ray") as process:
        wait_until(lambda: trains(tmp_path), process)
        send(process.pid, number)
        assert_stopped_cleanly(process, tmp_path)
        for _ in range(50):
            if not (left := alive_of_session(process.pid)):
                break
            time.sleep(0.1)
        assert not left


@pytest.mark.slow
@pytest.mark.ray
def test_a_search_stops_cleanly_while_ray_starts(tmp_path, home_set_up):
    home_set_up(tmp_path)
    with searching(tmp_path, executor="ray") as process:
        said = ""
        while "starting the workers" not in said:
            said += process.stderr.readline()
        wait_until(lambda: any("raylet" in line for line in alive_of_session(process.pid)), process)
        process.send_signal(signal.SIGTERM)
        assert_stopped_cleanly(process, tmp_path)


@pytest.mark.slow
def test_a_search_whose_terminal_is_closed_stops_cleanly(tmp_path, home_set_up):
    home_set_up(tmp_path)
    ours, theirs = pty.openpty()
    code = "import os, sys, fcntl, termios; fcntl.ioctl(2, termios.TIOCSCTTY, 0);"
    code += "os.execv(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-m", "orchestrator.cli", "search", str(QUICKSTART)]
    command += ["--executor", "inline", "--home", str(tmp_path), *ENDLESS]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *command],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TERM": "xterm"},
        start_new_session=True,
        preexec_fn=on_hangup(signal.SIG_DFL),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    os.set_blocking(ours, False)

    def trains_while_it_is_read():
        with suppress(BlockingIOError):  # else it would wait for a reader
            while os.read(ours, 1 << 16):
                pass
        return trains(tmp_path)

    try:
        wait_until(trains_while_it_is_read, process)
        os.close(ours)  # upon which the kernel sends SIGHUP
        assert process.wait(60) == 130
    finally:
        process.kill()
        process.wait()
    assert_nothing_runs(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_what_has_not_begun_ends_when_it_is_first_asked_to(tmp_path, called, monkeypatch, number):
    def reading(*arguments, **options):
        os.kill(os.getpid(), number)
        pytest.fail("it went on to read the data")

    monkeypatch.setattr(launch, "checked_data", reading)
    with hangup_as_default():
        done = called("search", QUICKSTART, "--home", tmp_path / "home", *sets())
    assert done.returncode == 130
    assert "stopped" in done.stderr
    assert not (tmp_path / "home" / "studies").exists()


@contextmanager
def hangup_as_default():
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_second_signal_ends_at_once_and_says_how_to_go_on(
    tmp_path, home_with_glyphs, called, monkeypatch
):
    def training(plan, records, executor, recorder, *, should_stop, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        assert should_stop()
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("it went on")

    monkeypatch.setattr(launch, "run_search", training)
    home_with_glyphs(tmp_path)
    asked = ["search", QUICKSTART, "--executor", "inline", "--home", tmp_path, *sets()]
    done = called(*asked, "--set", "name=brackets", "--set", "search.trials=4")
    assert done.returncode == 130
    assert json.dumps({"way": 5, "shot": 1})[1:-1] in done.stderr, "what was typed, as it was typed"
    assert done.stderr.rstrip().endswith("--resume")
    recorded = (tmp_path / "searches" / "brackets" / "outbox.jsonl").read_text()
    assert '"fewtune.state":"stopped"' in recorded, "MLflow is told as soon as it is up"


def test_under_nohup_a_hangup_is_ignored(capsys):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with _interruptible(Output(), lambda: True) as asked:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not asked
    finally:
        signal.signal(signal.SIGHUP, before)
