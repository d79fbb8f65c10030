"""What others see of the driver of a search."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from orchestrator.record.heartbeat import SILENT_SECONDS, STUCK_SECONDS, Beat, Heartbeat, driver_of
from orchestrator.record.home import Home

BEAT = Beat(host="elsewhere", pid=1, started=0.0, beat=1000.0)


class Stop(Exception):
    pass


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.at(str(tmp_path / "runs"))


def written(home: Home, beat: Beat) -> None:
    """A beat as a driver on another machine has written it."""
    home.search("toy").mkdir(parents=True, exist_ok=True)
    (home.search("toy") / "heartbeat.json").write_text(json.dumps(asdict(beat)))


def seen(home: Home, after: float) -> str:
    """The state, some seconds after the last beat."""
    return driver_of(home, "toy", now=BEAT.beat + after).state


def test_a_driver_on_another_machine_is_dead_when_its_beats_stop(home: Home) -> None:
    written(home, BEAT)
    assert seen(home, SILENT_SECONDS) == "running"
    assert seen(home, SILENT_SECONDS + 1) == "dead"


def test_a_driver_whose_loop_does_not_come_by_is_stalled(home: Home) -> None:
    written(home, replace(BEAT, looped=BEAT.beat - STUCK_SECONDS))
    assert seen(home, 1) == "running"
    written(home, replace(BEAT, looped=BEAT.beat - STUCK_SECONDS - 1))
    assert seen(home, 1) == "stalled"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": "x"}'])
def test_a_search_without_a_readable_heartbeat_is_judged_by_its_lock(
    home: Home, content: str
) -> None:
    home.search("toy").mkdir(parents=True)
    (home.search("toy") / "heartbeat.json").write_text(content)
    assert driver_of(home, "toy").state == "stopped"
    with home.owned("toy"):
        assert driver_of(home, "toy").state == "running"


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (None, "complete", ""),
        (Stop(), "stopped", ""),
        (RuntimeError("no\nluck at https://me:secret@host/"), "failed", "no luck at https://"),
    ],
)
def test_how_a_driver_ended_is_seen(
    home: Home, error: Exception | None, state: str, reason: str
) -> None:
    heartbeat = Heartbeat(home.search("toy"), stopped=(Stop,))
    try:
        with home.owned("toy"), heartbeat:
            assert driver_of(home, "toy").state == "running"
            if error is not None:
                raise error
    except (Stop, RuntimeError):
        pass
    found = driver_of(home, "toy")
    assert (found.state, found.gone) == (state, True)
    assert found.beat is not None
    assert found.beat.reason.startswith(reason)
    assert "secret" not in found.beat.reason


def test_stages_reports_and_the_loop_are_noted(home: Home) -> None:
    heartbeat = Heartbeat(home.search("toy"), stopped=())
    told: list[str] = []
    observe = heartbeat.observing(lambda stage, records: told.append(stage))
    should_stop = heartbeat.looping(lambda: len(told) > 2)
    with heartbeat:
        observe("search", None)
        assert not should_stop()
        assert heartbeat._beat.looped is not None
        assert heartbeat._beat.reported is None
        observe("search", None)
        assert heartbeat._beat.reported is not None
        observe("record", None)
        assert heartbeat._beat.looped is None, "there is no loop while the result is computed"
        assert should_stop()
    assert told == ["search", "search", "record"]


@pytest.mark.slow
def test_a_process_that_is_stopped_or_killed_is_seen(home: Home) -> None:
    code = (
        "import sys, time; from orchestrator.record.home import Home\n"
        "from orchestrator.record.heartbeat import Heartbeat\n"
        "home = Home.at(sys.argv[1])\n"
        "with home.owned('toy'), Heartbeat(home.search('toy'), stopped=()):\n"
        "    print('owned', flush=True); time.sleep(600)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(home.path)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == "owned\n"
        assert driver_of(home, "toy").state == "running"
        child.send_signal(signal.SIGSTOP)
        assert driver_of(home, "toy", now=time.time() + SILENT_SECONDS + 5).state == "stalled"
        child.send_signal(signal.SIGCONT)
        child.send_signal(signal.SIGKILL)
        child.wait()
        found = driver_of(home, "toy")
        assert (found.state, found.gone) == ("dead", True)
        assert found.beat is not None
        assert found.beat.pid == child.pid
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
