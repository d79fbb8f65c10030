"""Measures how soon MLflow's page shows the trials of a search, best first.

    python benchmarks/dashboard.py [--quick] [--seeds N] [--home DIR] [--json FILE]

A search of simulated trials is recorded on SQLite by the recorder of a search, 1,000 and 5,000
runs. `fewtune dashboard` serves it, and Chromium (with the package playwright) opens the page of
the search's trials: each visit with a new, empty profile. `server_start_seconds` is the time until
the server answers, `first_rows_seconds` the time from a visit's start until rows can be seen.
The CPU seconds are those of a visit, until its last request is answered. `best_row` is the place of
the best trial among the rows that can be seen without scrolling, 0 if it is not there.

--home DIR keeps the records in DIR, or uses those that are there. --requests prints the requests of
each visit. Each seed is a visit of the same server.
"""

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from playwright.sync_api import Browser, Page, sync_playwright
from search_quality_landscapes import PROBLEMS
from simulated_trials import RECIPE, SimulatedTrials
from tidy import Row, figure, row, show, write

from fewshot.metrics import estimate
from orchestrator.config.plan import Plan
from orchestrator.executors.inline import InlineExecutor
from orchestrator.record.home import Home
from orchestrator.record.search_records import open_records
from orchestrator.record.studies.study import open_storage
from orchestrator.results.leaderboard import summarise
from orchestrator.search.loop import run_search
from orchestrator.tracking.sending.mlflow_sender import counts, recorder

NAME = "simulated"
LANES = 8
TASKS = 10  # an adaptation run each, for every trial that is complete
# About a fourth of the trials is complete.
RUNS_PER_TRIAL = 1 + TASKS / 4
BROWSER = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync")
SCREEN = {"width": 1600, "height": 900}
NAMES = "[role=gridcell][col-id='attributes.`Run Name`']"
SECONDS = 120.0  # the longest wait
SETTLING = 3.0  # seconds after the first rows, in which errors count too


@dataclass
class Visit:
    """What a visit of the page measured. requests: what was asked, and for how many seconds."""

    figures: dict[str, float] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    requests: list[tuple[float, float, str]] = field(default_factory=list)


def record(home: Home, runs: int) -> None:
    """Record a search with about this number of runs."""
    landscape = PROBLEMS["sparse_8"](np.random.default_rng(0))
    plan = Plan(
        name=NAME,
        seed=0,
        recipe=RECIPE,
        space=landscape.space,
        rungs=(30, 60, 100),
        eta=2.0,
        trials=round(runs / RUNS_PER_TRIAL),
        reference_trials=8,
        finalists=3,
        seeds=3,
        trial_seed=None,
        sampler="random",
    )
    made = recorder(home.search(NAME), home.tracking_uri, NAME)
    trials = SimulatedTrials(landscape, 0.01, LANES, tasks=TASKS)
    with closing(made), open_storage(home.storage(NAME)) as storage:
        records = open_records(plan, storage)
        made.search_started(name=NAME, experiment="fewtune", params={}, tags={}, time=time.time())
        run_search(plan, records, InlineExecutor(lambda: trials), made, task_sizes={})
        records.search.note("state", "complete")
        summary = summarise(NAME, records)
        assert summary.best is not None, "no trial fails"
        made.search_ended(
            state="complete",
            metrics={"score": summary.best.score.mean},
            artifacts=[],
            answer=str(summary),
            best=f"search-{summary.best.number:04d}",
            time=time.time(),
        )
        # By this file, the command knows that there is such a search.
        home.config(NAME).write_text("# simulated\n", encoding="utf-8")
        while not made.drain(60.0):
            print(f"recording: {made.runs_left()} runs are left", file=sys.stderr)


@contextmanager
def dashboard(home: Path) -> Iterator[tuple[str, psutil.Process]]:
    """The address of the search's page, and the process that serves it."""
    command = [sys.executable, "-m", "orchestrator.cli", "dashboard", "--home", str(home)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        links = (line.partition(f"{NAME}: ")[2].strip() for line in process.stdout)
        link = next((link for link in links if link), None)
        if link is None:
            raise SystemExit("the dashboard did not start; its message is above")
        yield link, psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def cpu_seconds(roots: Iterable[psutil.Process]) -> float:
    """Of processes with all their descendants, as far as these have not ended."""
    found = {each for root in roots for each in (root, *root.children(recursive=True))}
    total = 0.0
    for each in found:
        with suppress(psutil.NoSuchProcess):
            times = each.cpu_times()
            total += times.user + times.system
    return total


def visited(browser: Browser, url: str, server: psutil.Process) -> Visit:
    """Open the page once."""
    visit, started = Visit(), time.monotonic()
    context = browser.new_context(viewport=SCREEN)
    page = context.new_page()
    _listen(page, visit, started)
    before = cpu_seconds([server])
    browser_before = _browser_cpu()
    page.goto(url)
    page.locator(NAMES).first.wait_for(state="visible", timeout=1000 * SECONDS)
    visit.figures["first_rows_seconds"] = time.monotonic() - started
    visit.figures["server_cpu_seconds"] = cpu_seconds([server]) - before
    visit.figures["browser_cpu_seconds"] = _browser_cpu() - browser_before
    page.wait_for_timeout(1000 * SETTLING)
    visit.figures["console_errors"] = len(visit.errors)
    visit.figures["best_row"] = _best_row(page)
    context.close()
    return visit


def _listen(page: Page, visit: Visit, started: float) -> None:
    def answered(request: Any) -> None:
        at = time.monotonic() - started
        seconds = request.timing["responseEnd"] / 1000
        visit.requests.append((at, seconds, f"{request.method} {request.url[:150]}"))

    page.on("requestfinished", answered)
    page.on("pageerror", lambda error: visit.errors.append(str(error)))
    page.on(
        "console",
        lambda said: (
            visit.errors.append(f"{said.text} {said.location.get('url', '')}")
            if said.type == "error"
            else None
        ),
    )


def _browser_cpu() -> float:
    """CPU seconds of the browser."""
    found = psutil.Process().children(recursive=True)
    return cpu_seconds(one for one in found if "chrom" in one.name())


def _best_row(page: Page) -> int:
    """The place of the best trial, from 1, among the rows that can be seen; 0 if it has none."""
    cells = [
        (box["y"], cell.inner_text())
        for cell in page.locator(NAMES).all()
        if (box := cell.bounding_box()) is not None
    ]
    seen = [text for y, text in sorted(cells) if y < SCREEN["height"]]
    return next((i for i, text in enumerate(seen, 1) if "(best)" in text), 0)


def measured(home: Home, runs: int, options: argparse.Namespace) -> list[Row]:
    """Record the search if it is not there, and visit it."""
    if not home.config(NAME).exists():
        record(home, runs)
    problem, found = f"{runs}_runs", []
    n = sum(sum(of_kind.values()) for of_kind in counts(home.tracking_uri, NAME).values())
    rows = [figure("dashboard", problem, "fewtune", "runs", n)]
    started = time.monotonic()
    with dashboard(home.path) as (url, server), sync_playwright() as play:
        rows += [
            figure("dashboard", problem, "fewtune", name, value)
            for name, value in {
                "server_start_seconds": time.monotonic() - started,
                "server_start_cpu_seconds": cpu_seconds([server]),
            }.items()
        ]
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=[*BROWSER])
        for _ in range(options.seeds):
            found.append(visited(browser, url, server))
            for error in found[-1].errors:
                print(f"console: {error}", file=sys.stderr)
            for at, seconds, what in found[-1].requests if options.requests else ():
                print(f"{at:6.2f} {seconds:6.3f} {what}", file=sys.stderr)
        browser.close()
    for name in found[0].figures:
        values = torch.tensor([visit.figures[name] for visit in found])
        rows.append(row("dashboard", problem, "fewtune", name, estimate(values)))
    show(rows)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="without the 5,000 runs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--home", type=Path, metavar="DIR", help="keep the records there")
    parser.add_argument("--requests", action="store_true", help="print them")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    if shutil.which("chromium") is None:
        parser.error("chromium is not installed; on Debian: apt-get install chromium")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="fewtune-") as temporary:
        for runs in (1_000,) if options.quick else (1_000, 5_000):
            home = Home((options.home or Path(temporary)) / str(runs))
            rows += measured(home, runs, options)
    if options.json:
        write(options.json, rows, ("mlflow", "playwright"))


if __name__ == "__main__":
    main()
