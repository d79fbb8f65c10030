"""Measures what the names of new characters add to one drawing of each.

    python benchmarks/names.py [unicode] [--quick] [--seeds N] [--home DIR] [--json FILE]

Three searches of configs/names.yaml, whose test characters are held out:

- `image`: `modal/text` is 0, so that only drawings are used;
- `names`: the weight of the names is searched;
- `permuted`: the same, but each character has the name of another one of its block.

Metrics of the exported model, which the validation characters choose: `accuracy` on the test tasks,
with its interval over seeds and tasks; `gain`, the difference from `image`, paired by seed and
task, in the same episodes; `modal_text`, the weight of its names. `cpu_seconds` of the search.
"""

import argparse
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tidy import Row, figure, row, show, write

from orchestrator import Search
from orchestrator.record.home import Home
from orchestrator.results.measures import TESTED, measure_tables
from orchestrator.results.report.findings import Findings, findings_of
from orchestrator.search.finals.intervals import interval

CONFIG = Path(__file__).parents[1] / "configs" / "names.yaml"
VARIANTS: Mapping[str, tuple[str, ...]] = {
    "image": ("space.modal/text=0",),
    "names": (),
    "permuted": ("datasets.names.permuted=true",),
}
_QUICK = ("search.trials=6", "search.reference_trials=2", "search.finalists=1", "steps=150")


def main() -> None:
    options = _options()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="fewtune-") as scratch:
        home = options.home or Path(scratch)
        for seed in range(options.seeds):
            found: dict[str, Findings] = {}
            for variant, settings in VARIANTS.items():
                quick = _QUICK if options.quick else ()
                found[variant], seconds = _searched(variant, seed, (*settings, *quick), home)
                rows.append(figure("names", "unicode", variant, "cpu_seconds", seconds))
                made = _rows(variant, found)
                show([rows[-1], *made])
                rows += made
    if options.json:
        write(options.json, rows, ("torch", "optuna", "matplotlib", "pillow"))


def _searched(
    variant: str, seed: int, settings: tuple[str, ...], home: Path
) -> tuple[Findings, float]:
    """The records of a search, and the CPU seconds that it took."""
    name = f"names-{variant}-{seed}"
    before = _cpu_seconds()
    search = Search.from_yaml(
        CONFIG, home=home, overrides=(f"name={name}", f"seed={seed}", *settings)
    )
    search.run(executor="inline")
    return findings_of(name, Home.at(str(home))), _cpu_seconds() - before


def _cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _rows(variant: str, found: Mapping[str, Findings]) -> list[Row]:
    tested, best = _tested(found[variant]), found[variant].summary.best
    assert best is not None, "the search has ended"
    n, weight = len(tested), best.hyperparameters.get("modal/text", 0.0)
    rows = [
        row("names", "unicode", variant, "accuracy", interval(tested, of_tasks=True), n=n),
        figure("names", "unicode", variant, "modal_text", weight),
    ]
    if variant != "image":
        gain = interval(tested - _tested(found["image"]), of_tasks=True)
        rows.append(row("names", "unicode", variant, "gain", gain, n=n))
    return rows


def _tested(found: Findings) -> np.ndarray:
    """Accuracies (seeds, tasks) of the exported model on the test tasks."""
    summary = found.summary
    assert summary.best is not None, "the search has ended"
    chosen = [each for each in (summary.candidate, summary.uniform) if each is not None]
    tables = measure_tables(found.records.test.trials(), chosen, summary.measure)
    return tables[TESTED[summary.best.role]].by_task


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("problem", nargs="*", choices=["unicode"], default="unicode")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter trials")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--home", type=Path, help="keep the searches in this folder")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
