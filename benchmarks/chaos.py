"""A search to whose processes bad things happen at random; measures what is lost.

    python benchmarks/chaos.py [own_loop | lanes] [--minutes M] [--seed S] [--only FAULT ...]
        [--quick] [--json FILE]

The search of 200 trials runs on a Ray cluster of three nodes on this machine, with its studies and
MLflow's runs in PostgreSQL, and with an MLflow server. For M minutes its driver, its workers, and
all that it rests on are killed (SIGKILL), stopped (SIGSTOP), told to end (SIGTERM), cut off, or
find the disk full. A supervisor starts the driver again with `--resume`; what is broken of the rest
is started again after some seconds. Then the search has time to end.

lost: what one of study, MLflow and checkpoints has, and another lacks. doubled: runs with the same
key, points of the same step. zombies: processes of the search that run after its end, and runs that
MLflow calls running. stall_seconds: the longest time without a report, but for the time in which
the driver was stopped, the head or PostgreSQL was not there, or the disk was full.
recomputed_steps: of trained steps, those that had been made before. driver_restarts, and
driver_hangs: how often a driver hung that nobody had stopped, so that the supervisor killed it.
load_per_core: on a machine with more work than cores, everything takes that much longer.

Needs PostgreSQL's programs, and for the full disk the right to mount a file system.
"""

import argparse
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import yaml
from chaos_faults import FAULTS, World, target
from chaos_search import PROBLEMS, Events, Supervisor, config, longest_stall
from chaos_services import Cluster, mlflow, persistently, postgres, signalled, sql, title, url
from chaos_verdict import Verdict, verdict
from tidy import Row, figure, show, write

from orchestrator.record.home import Home

TRIALS, QUICK_TRIALS = 200, 30
AT_ONCE = 2  # faults of different things
WORKERS = 3
_DISK = "size=96m,mode=777"
_PATIENCE = 300  # seconds without a report, when all faults are over
_END_SECONDS = 45  # for the last processes of an ended search


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("problem", nargs="?", choices=[*PROBLEMS], default="lanes")
    parser.add_argument("--minutes", type=float, default=4.0, help="of faults")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=[*FAULTS], metavar="FAULT", default=[*FAULTS])
    parser.add_argument("--quick", action="store_true", help="a minute, and 30 trials")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    minutes = 1.0 if options.quick else options.minutes
    trials = QUICK_TRIALS if options.quick else TRIALS
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is ended
    # Directly in /tmp: the path of a socket may have 107 characters, and Ray adds some 70.
    folder = Path(tempfile.mkdtemp(prefix="chaos", dir="/tmp"))
    values, found = measure(folder, minutes, options, trials)
    rows: list[Row] = [
        figure("chaos", options.problem, f"seed_{options.seed}", metric, value)
        for metric, value in values.items()
    ]
    show(rows)
    for kind in ("lost", "doubled", "running", "failed"):
        for line in getattr(found, kind):
            print(f"{kind}: {line}")
    if options.json:
        write(options.json, rows, ("ray", "optuna", "mlflow"))
    if any(values[metric] for metric in ("lost", "doubled", "zombies", "unfinished")):
        print(f"The logs are in {folder}")
        sys.exit(1)
    shutil.rmtree(folder)


def measure(
    folder: Path, minutes: float, options: argparse.Namespace, trials: int
) -> tuple[dict[str, float], Verdict]:
    """Run one search; returns its figures and what was found."""
    events = Events(folder / "events.jsonl")
    with ExitStack() as stack:
        world, address = stack.enter_context(running(folder, minutes, options, trials, events))
        supervisor = world.supervisor
        supervisor.start()
        done = harm(world, minutes, options.only)
        ended = await_end(supervisor, events)
        events.add("the search has ended" if ended else "the search has not ended")
        left = supervisor.left()
        deadline = time.monotonic() + _END_SECONDS
        while ended and left and time.monotonic() < deadline:
            time.sleep(0.5)
            left = supervisor.left()
        for process in left:
            events.add("still runs", pid=process.pid, title=title(process)[:200])
        supervisor.end()
        found = verdict(world.home, address, trials)
        values = {
            "lost": len(found.lost),
            "doubled": len(found.doubled),
            "zombies": len(left) + len(found.running),
            "unfinished": float(not ended),
            "failed_trials": len(found.failed),
            "stall_seconds": longest_stall(supervisor.reports, events.down),
            "recomputed_steps": found.recomputed,
            "driver_restarts": supervisor.restarts,
            "driver_hangs": supervisor.hangs,
            "faults": done,
            "trials": found.trials,
            "reports": found.reports,
            "minutes": events.now() / 60,
            "load_per_core": statistics.mean(supervisor.loads),
        }
        return {name: float(value) for name, value in values.items()}, found


def harm(world: World, minutes: float, faults: list[str]) -> int:
    """Do harm at random times, as soon as a trial has reported; returns the number of faults."""
    supervisor, rng, done = world.supervisor, world.rng, 0
    while not supervisor.reports and not supervisor.complete.wait(0.5):
        pass
    end = world.events.now() + 60 * minutes
    deck: list[str] = []
    lasting: dict[str, Future[None]] = {}  # by what is harmed
    with ThreadPoolExecutor(AT_ONCE) as pool, world.closing():
        while not supervisor.complete.wait(rng.uniform(3, 12)) and world.events.now() < end:
            for of in [of for of, fault in lasting.items() if fault.done()]:
                lasting.pop(of).result()  # raises what it has raised
            deck = deck or rng.sample(faults, len(faults))
            fault = next((name for name in deck if target(name) not in lasting), None)
            if fault is not None and len(lasting) < AT_ONCE:
                deck.remove(fault)
                lasting[target(fault)] = pool.submit(FAULTS[fault], world)
                done += 1
    for last in lasting.values():
        last.result()
    return done


def await_end(supervisor: Supervisor, events: Events) -> bool:
    """Wait until the search is complete; False if nothing is reported any more."""
    since = events.now()
    while not supervisor.complete.wait(1.0):
        if events.now() - max([since, *supervisor.reports]) > _PATIENCE:
            return False
    return True


@contextmanager
def running(
    folder: Path, minutes: float, options: argparse.Namespace, trials: int, events: Events
) -> Iterator[tuple[World, str]]:
    """All that a search needs, and its supervisor, which has not started; MLflow's address."""
    with ExitStack() as stack:
        server, port = postgres(folder)
        stack.callback(server.close)
        persistently(server)
        for database in ("studies", "mlflow"):
            sql(port, f"CREATE DATABASE {database}")
        tracker, address = mlflow(folder, url(port, "mlflow"))
        stack.callback(tracker.close)
        tracker.start()
        cluster = Cluster(folder / "ray")
        stack.callback(cluster.close)
        cluster.start()
        tracker.wait()
        disk = stack.enter_context(small_disk(folder / "home"))
        home = Home(folder / "home")
        os.environ["FEWTUNE_STORAGE"] = url(port, "studies")
        os.environ["MLFLOW_TRACKING_URI"] = address
        # Without faults, the search would take half of the time.
        pause = 0.5 * 60 * minutes * WORKERS / trials / 10
        found = config(options.problem, trials, round(pause, 3))
        (folder / "search.yaml").write_text(yaml.safe_dump(found))
        supervisor = Supervisor(folder, home, cluster, events)
        stack.callback(ended, supervisor)
        events.add("ready", folder=str(folder), seed=options.seed)
        rng = random.Random(options.seed)
        yield World(cluster, server, port, tracker, home, supervisor, disk, events, rng), address


def ended(supervisor: Supervisor) -> None:
    if supervisor.is_alive():
        supervisor.end()
    signalled(supervisor.left(), signal.SIGKILL)


@contextmanager
def small_disk(place: Path) -> Iterator[Path | None]:
    """A small file system at `place`; None if this user can't mount one."""
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", _DISK, "tmpfs", place], check=False)
    try:
        yield None if done.returncode else place
    finally:
        if not done.returncode:
            kept = place.with_name("home_kept")
            shutil.copytree(place, kept, ignore_dangling_symlinks=True)
            subprocess.run(["umount", "-l", place], check=True)


if __name__ == "__main__":
    assert psutil.LINUX, "signals and mounts as on Linux"
    main()
