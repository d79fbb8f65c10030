"""The rows that every benchmark writes: one number each, with its interval."""

import json
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from fewshot.metrics import Estimate

Row = dict[str, object]


def row(benchmark: str, problem: str, variant: str, metric: str, value: Estimate) -> Row:
    """A mean with its 95 % interval over `n` observations."""
    low, high = value.interval()
    return {
        "benchmark": benchmark,
        "problem": problem,
        "variant": variant,
        "metric": metric,
        "value": value.mean,
        "low": low,
        "high": high,
        "n": value.n,
    }


def show(rows: Sequence[Row]) -> None:
    for one in rows:
        print("{problem:<18} {variant:<12} {metric:<12} {value:9.2f}".format(**one), end="")
        print("  ({low:.2f} to {high:.2f}, n={n})".format(**one), flush=True)


def write(path: Path, rows: Sequence[Row], packages: Sequence[str]) -> None:
    """One JSON object a line: the rows, then the environment."""
    environment = {name: version(name) for name in packages}
    environment |= {"python": platform.python_version(), "machine": platform.machine()}
    everything = [*rows, {"environment": environment}]
    path.write_text("".join(json.dumps(one) + "\n" for one in everything))
