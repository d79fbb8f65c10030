"""`fewtune status`, `show` and `list` of a search whose driver runs, hangs, died, or has ended."""

import json
import os
import signal

import pytest

from orchestrator.record import heartbeat
from tests.orchestrator.cli.test_cli import called, home
from tests.test_signals import searching, trains, wait_until

__all__ = ["called", "home"]  # fixtures


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_search_that_runs_hangs_and_dies(tmp_path, home_set_up, called, monkeypatch):
    home_set_up(tmp_path)

    def state(command: str) -> str:
        if command == "list":
            (found,) = json.loads(called("list", "--home", tmp_path, "--json").stdout)
        else:
            done = called(command, "quickstart", "--home", tmp_path, "--json")
            found = json.loads(done.stdout.splitlines()[-1])
        return found["state"]

    with searching(tmp_path, executor="inline") as process:
        wait_until(lambda: trains(tmp_path), process, 400)
        wait_until(lambda: "last report" in said(called, tmp_path), process, 60)
        assert said(called, tmp_path).startswith(
            f"quickstart: running in process {process.pid} on {os.uname().nodename}; "
        )
        assert {state(command) for command in ("status", "show", "list")} == {"running"}
        process.send_signal(signal.SIGSTOP)
        monkeypatch.setattr(heartbeat, "SILENT_SECONDS", 2 * heartbeat.INTERVAL)
        wait_until(lambda: state("status") == "stalled", process)
        assert {state(command) for command in ("show", "list")} == {"stalled"}
        assert "exists but does nothing" in said(called, tmp_path)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert {state(command) for command in ("status", "show", "list")} == {"dead"}
        text = said(called, tmp_path)
        assert f"dead: process {process.pid}" in text
        assert " interrupted; " in text
        assert "--resume" in text
        shown = json.loads(called("show", "quickstart", "--home", tmp_path, "--json").stdout)
        assert shown["trials"]["running"] == 0
        assert shown["trials"]["interrupted"] > 0


def said(called, home) -> str:
    return called("status", "quickstart", "--home", home).stdout


def test_a_search_that_has_ended_is_complete(home, called):
    assert called("status", "quickstart", "--home", home).stdout == (
        "quickstart: complete; 9 of 9 trials ended\n"
    )


def test_a_search_of_another_home_is_looked_for_on_the_cluster(tmp_path, called):
    done = called("status", "nothing", "--home", tmp_path, "--address", "http://127.0.0.1:1")
    assert done.returncode == 2
    assert "--address" in done.stderr
