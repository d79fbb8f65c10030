"""Measures the time from the command of a search to the first report of one of its trials.

    python benchmarks/first_report.py [CONFIG] [--executors ray inline] [--seeds N] [--json FILE]

Each seed is a start of `fewtune search CONFIG` as a new process, with a new name, in a home where
the config was searched before: its data are in the cache, and MLflow's database is there.
`began_seconds` is the time until the imports are done, `ready_seconds` until the workers can train,
`first_report_seconds` until a trial has reported its first score. The search is then stopped.
"""

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from tidy import Row, row, show, write

from fewshot.metrics import estimate
from orchestrator.record.home import Home
from orchestrator.record.search_records import read_records
from orchestrator.record.starts import starts_of

CONFIG = Path(__file__).parents[1] / "configs" / "quickstart.yaml"
TIMES = ("began_seconds", "ready_seconds", "first_report_seconds")
_LOOK_SECONDS, _LIMIT_SECONDS = 0.05, 300.0


def times(config: Path, executor: str, name: str, home: Path) -> tuple[float, float, float]:
    """The times of one start, in the order of `TIMES`."""
    words = ["--executor", executor, "--set", f"name={name}", "--home", str(home)]
    command = [sys.executable, "-m", "orchestrator.cli", "search", str(config), *words]
    began = time.time()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            first = _first_report(process, name, Home(home), began + _LIMIT_SECONDS)
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate()
    records = read_records(name, Home(home))
    assert records is not None, "a trial has reported"
    start = starts_of(records.search)[0]
    return start.began - began, start.ready - began, first - began


def _first_report(process: "subprocess.Popen[bytes]", name: str, home: Home, limit: float) -> float:
    """The time at which a trial of the search has reported."""
    while process.poll() is None and time.time() < limit:
        records = read_records(name, home)
        if records is not None and any(trial.reports for trial in records.search.trials()):
            return time.time()
        time.sleep(_LOOK_SECONDS)
    raise SystemExit(f"{name}: no trial has reported; `fewtune search` says why")


def measured(config: Path, executor: str, seeds: int) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="fewtune-") as folder:
        times(config, executor, "before", Path(folder))
        found = [times(config, executor, f"start-{i}", Path(folder)) for i in range(seeds)]
    columns = torch.tensor(found).double().T
    return [
        row("first_report", config.stem, executor, name, estimate(column))
        for name, column in zip(TIMES, columns, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", nargs="?", type=Path, default=CONFIG)
    parser.add_argument("--executors", nargs="+", choices=("ray", "inline"), default=["ray"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    rows = [
        each
        for executor in options.executors
        for each in measured(options.config, executor, options.seeds)
    ]
    show(rows)
    if options.json:
        write(options.json, rows, ["torch", "ray", "mlflow"])


if __name__ == "__main__":
    main()
