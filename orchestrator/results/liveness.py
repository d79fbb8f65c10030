"""Whether a search still runs, in its summary and in words."""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from orchestrator.config.loading import load_config
from orchestrator.record.heartbeat import Driver, driver_of
from orchestrator.record.home import Home
from orchestrator.results.leaderboard import Summary, records_of, summarise
from orchestrator.search.durations import duration

_ENDED = ("complete", "pruned", "failed")  # states of trials
_RESUME = "nothing that was reported is lost; to go on: fewtune search CONFIG --resume"


def with_driver(summary: Summary, driver: Driver) -> Summary:
    """The summary of a search that has not ended, with the state of its driver.

    Trials that the study calls running are interrupted if nothing trains them any more.
    """
    if summary.state == "complete":
        return summary
    # A driver that has just ended has written all results; only then is a search complete.
    state = "stopped" if driver.state == "complete" else driver.state
    if not driver.gone:
        return replace(summary, state=state)
    trials = dict(summary.trials)
    if interrupted := trials.get("running", 0):
        trials |= {"running": 0, "interrupted": interrupted}
    return replace(summary, state=state, trials=trials)


def status_of(name: str, home: Home) -> dict[str, Any]:
    """The state of a search as plain values; raises InputError if this home has no such search."""
    driver = driver_of(home, name)
    summary = with_driver(summarise(name, records_of(name, home), top=1), driver)
    planned, beat = load_config(home.config(name)).search.trials, driver.beat
    return {
        "name": summary.name,
        "state": summary.state,
        "trials": dict(summary.trials),
        "planned": planned,
        "host": None if beat is None else beat.host,
        "pid": None if beat is None else beat.pid,
        "stage": None if beat is None else beat.stage,
        "beat": None if beat is None else beat.beat,
        "reported": None if beat is None else beat.reported,
        "reason": None if beat is None or summary.state != "failed" else beat.reason,
    }


def ended_trials(trials: Mapping[str, int]) -> int:
    """The number of trials that have ended; `trials`: their numbers by state."""
    return sum(n for state, n in trials.items() if state in _ENDED)


def sentence(found: Mapping[str, Any], *, now: float | None = None) -> str:
    """One line for people; `found` as `status_of` returns it."""
    now = time.time() if now is None else now
    counts = f"{ended_trials(found['trials'])} of {found['planned']} trials ended"
    for state in ("running", "interrupted"):
        if n := found["trials"].get(state):
            counts += f", {n} {state}"
    known = found["pid"] is not None  # else the search is one of an earlier version
    process = f"process {found['pid']} on {found['host']}" if known else "a process"
    reported, since = found["reported"], _since(found["beat"], now)
    last = "no report yet" if reported is None else f"last report {_since(reported, now)} ago"
    words = {
        "complete": f"complete; {counts}",
        "running": f"running in {process}; {counts}; {last}",
        "stalled": (
            f"stalled: {process} exists but does nothing (last sign of life {since} ago); "
            f"{counts}. If it does not go on, end it; {_RESUME}"
        ),
        "dead": f"dead: {process} is gone, since about {since}; {counts}; {_RESUME}",
        "stopped": f"stopped; {counts}; {_RESUME}",
        "failed": f"failed: {found['reason']} ({counts})",
    }
    return f"{found['name']}: {words[found['state']]}"


def _since(then: float | None, now: float) -> str:
    return "some time" if then is None else duration(max(0.0, now - then))
