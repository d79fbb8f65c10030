"""Shows the comparison as a table and as a plot of the best scores over time."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import tidy
from rich.console import Console
from rich.table import Table
from throughput_course import Course

_SHOWN = {
    "trials_per_hour": "{:.0f}",
    "recorded_trials_per_hour": "{:.0f}",
    "steps_per_second": "{:.0f}",
    "steps_per_cpu_second": "{:.0f}",
    "cpu_seconds_per_trial": "{:.2f}",
    "driver_cpu_seconds_per_trial": "{:.2f}",
    "occupancy": "{:.1%}",
    "gpu_busy": "{:.1%}",
    "peak_bytes": "{:.3g}",
    "gpu_peak_bytes": "{:.3g}",
    "seconds_to_reach": "{:.1f}",
    "best_score": "{:.3f}",
    "startup_seconds": "{:.1f}",
    "record_seconds": "{:.1f}",
}
_COMPARED = "ray_tune"


def show(problem: str, rows: Sequence[tidy.Row]) -> None:
    """Print one column per variant; in brackets, the ratio to the value of ray_tune."""
    value = {(row["variant"], row["metric"]): row["value"] for row in rows}
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    table = Table(title=problem)
    for name in ("", *variants):
        table.add_column(name, justify="right")
    for metric, form in _SHOWN.items():
        if not any((variant, metric) in value for variant in variants):
            continue
        base = value.get((_COMPARED, metric))
        cells = []
        for variant in variants:
            found = value.get((variant, metric))
            cell = "-" if found is None else form.format(found)
            if found is not None and base and variant != _COMPARED:
                cell += f" ({found / base:.2f}x)"
            cells.append(cell)
        table.add_row(metric, *cells)
    Console(width=120).print(table)


def plot(courses: Mapping[str, Mapping[str, Course]], rows: Sequence[tidy.Row], path: Path) -> None:
    """For each problem, plot the best score over time and the trials per hour."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shape = {"figsize": (10, 3 * len(courses)), "squeeze": False, "layout": "constrained"}
    figure, axes = pyplot.subplots(len(courses), 2, **shape)
    for (problem, variants), (left, right) in zip(courses.items(), axes, strict=True):
        for variant, course in variants.items():
            best = course.best()
            best += [(course.end - course.begin, score) for _, score in best[-1:]]
            if best:  # at least one trial is complete
                left.step(*zip(*best, strict=True), where="post", label=variant)
        left.set(
            title=problem, xlabel="seconds", ylabel="best score of a complete trial", xscale="log"
        )
        left.legend()
        shown = {
            row["variant"]: row["value"]
            for row in rows
            if row["problem"] == problem and row["metric"] == "trials_per_hour"
        }
        right.barh(list(shown), list(shown.values()))
        right.invert_yaxis()
        right.set(title=problem, xlabel="trials per hour")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
