"""Compares a search of the task weights with uniform weights that get the same number of trials.

    python benchmarks/tuned_uniform.py configs/omniglot.yaml [--quick] [--seeds N] [--json FILE]

Runs the search of the config, and the same search with uniform weights, so that all of its trials
tune the learning rate. Both finalists are retrained with the same seeds and tested on the same
episodes, so the difference is paired.
"""

import argparse
import json
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np

from orchestrator.config.loading import load_config
from orchestrator.launch import run
from orchestrator.record.home import Home
from orchestrator.record.search_records import read_records
from orchestrator.results.leaderboard import Summary
from orchestrator.search.finals.finalists import best_candidate, role_of
from orchestrator.search.finals.intervals import Interval, interval

UNIFORM = ["space.task_weights={search: false}"]


def main() -> None:
    options = _options()
    rows: list[dict[str, object]] = []
    for seed in range(options.seeds):
        rows += compare(options.config, seed, quick=options.quick)
    for row in rows:
        print("{variant:<14} {metric:<22} {value:8.2f}  ({low:.2f} to {high:.2f})".format(**row))
    packages = ("torch", "optuna", "ray", "mlflow")
    environment = {name: version(name) for name in packages} | {"python": platform.python_version()}
    if options.json:
        everything = [*rows, {"environment": environment}]
        options.json.write_text("\n".join(json.dumps(row) for row in everything) + "\n")


def compare(path: Path, seed: int, *, quick: bool) -> list[dict[str, object]]:
    """The tidy rows of both variants and of their difference, for one seed of the search."""
    shared = [f"seed={seed}"] + (["search.trials=16", "steps=100"] if quick else [])
    problem = load_config(path).name
    tables, summaries = {}, {}
    with tempfile.TemporaryDirectory(prefix="fewtune-") as folder:
        for variant, overrides in (("fewtune", []), ("tuned_uniform", UNIFORM)):
            config = load_config(path, [*shared, *overrides, f"name={variant}"])
            home = Home.at(str(Path(folder, variant)))
            summaries[variant] = run(config, home, placement="ray").summary
            tables[variant] = _tested(variant, home)
    rows = [
        _row(problem, variant, "accuracy", interval(100 * table, of_tasks=True), table.size)
        for variant, table in tables.items()
    ]
    gain = interval(100 * (tables["fewtune"] - tables["tuned_uniform"]), of_tasks=True)
    rows.append(_row(problem, "fewtune", "gain", gain, tables["fewtune"].size))
    clean = _clean_weight(summaries["fewtune"])
    rows.append(_row(problem, "fewtune", "clean_weight", Interval(clean, clean, clean), 1))
    occupancy = 100 * summaries["fewtune"].occupancy
    rows.append(_row(problem, "fewtune", "occupancy", Interval(occupancy, occupancy, occupancy), 1))
    return [row | {"seed": seed} for row in rows]


def _tested(name: str, home: Home) -> np.ndarray:
    """Accuracies (seeds, tasks) of the best finalist that is not the uniform reference."""
    records = read_records(name, home)
    assert records is not None, "the search has just ended"
    best = best_candidate(records.final.trials(), "searched")
    return np.array(
        [
            [task["accuracy"] for task in trial.notes["tasks"].values()]
            for trial in records.test.trials()
            if trial.notes["candidate"] == best and role_of(trial) == "searched"
        ]
    )


def _clean_weight(summary: Summary) -> float:
    """The total weight of the training tasks with correct labels."""
    assert summary.best is not None, "the search has just ended"
    misleading = ("shuffled", "drawer", "by_font", "length")
    weights = summary.best.task_weights.items()
    return sum(weight for task, weight in weights if not any(word in task for word in misleading))


def _row(problem: str, variant: str, metric: str, value: Interval, n: int) -> dict[str, object]:
    return {
        "benchmark": "tuned_uniform",
        "problem": problem,
        "variant": variant,
        "metric": metric,
        "value": value.mean,
        "low": value.low,
        "high": value.high,
        "n": n,
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path, nargs="?", default=Path("configs/quickstart.yaml"))
    parser.add_argument("--quick", action="store_true", help="a few small trials")
    parser.add_argument(
        "--seeds", type=int, default=1, help="number of searches, each with a different seed"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


if __name__ == "__main__":
    main()
