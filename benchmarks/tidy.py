"""The row format that all benchmarks write: one number with its interval per row."""

import json
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from fewshot.metrics import Estimate
from orchestrator.search.finals.intervals import Interval

Row = dict[str, object]


def row(
    benchmark: str, problem: str, variant: str, metric: str, value: Estimate | Interval, n: int = 0
) -> Row:
    """A mean with its 95 % interval; n: number of observations, taken from an `Estimate`."""
    if isinstance(value, Estimate):
        value, n = Interval(value.mean, *value.interval()), value.n
    return {
        "benchmark": benchmark,
        "problem": problem,
        "variant": variant,
        "metric": metric,
        "value": value.mean,
        "low": value.low,
        "high": value.high,
        "n": n,
    }


def figure(benchmark: str, problem: str, variant: str, metric: str, value: float) -> Row:
    """A row for a number that was measured once."""
    return row(benchmark, problem, variant, metric, Interval(value, value, value), n=1)


def show(rows: Sequence[Row]) -> None:
    for one in rows:
        print("{problem:<22} {variant:<13} {metric:<22} {value:9.3f}".format(**one), end="")
        print("  ({low:.3f} to {high:.3f}, n={n})".format(**one), flush=True)


def write(path: Path, rows: Sequence[Row], packages: Sequence[str]) -> None:
    """Write one JSON object per line: the rows, then the environment."""
    environment = {name: version(name) for name in packages}
    environment |= {"python": platform.python_version(), "machine": platform.machine()}
    everything = [*rows, {"environment": environment}]
    path.write_text("".join(json.dumps(one) + "\n" for one in everything))
