"""How fast is a search, in lanes and without, and by the tools that one would use instead?

    python benchmarks/throughput.py [PROBLEM...] [--quick] [--seeds N] [--json FILE] [--out DIR]

ray_tune: Ray Tune with OptunaSearch, ASHA and its MLflow callback, a trial to each core at a time;
ray_tune_by_hand: its trial's loss written anew where fewtune's is slow for one model alone;
ray_tune_by_4: a trial to four cores, so that fewer share a GPU; optuna_serial: `study.optimize`
with a pruner and MLflow, on one core; one_lane, lanes: fewtune with a worker to each core; or to
each GPU, and in lanes two, of which one trains while the other waits for its orders.
All train as many trials of as many steps, halved at the same rungs, on the same episodes, and a
trial of the others reports what a lane does (tests/test_benchmarks.py). Each samples by its own
default.

The clock runs from the first trial's first step to the last trial's last score; what comes before
is `startup_seconds`, and fewtune's `record_seconds` are what MLflow lags behind. CPU seconds are
those of all processes until MLflow has everything. `seconds_to_reach` is the time after which a
whole trial scored as well as ray_tune's best. --seconds cuts every search off, so long after its
first report; what then runs is no trial, and its steps count up to its last rung. Needs Linux, and
for all but maml_functions FEWTUNE_DATA.
"""

import argparse
import math
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import throughput_report
import tidy
import torch
from throughput_course import Course, Limits
from throughput_fewtune import fewtune
from throughput_measure import Usage, measured
from throughput_problems import PROBLEMS, config_of
from throughput_tools import optuna_serial, ray_tune

from fewshot.errors.inputs import InputError
from orchestrator.config.plan import plan_of
from orchestrator.config.sections.config import Config
from orchestrator.record.home import Home
from trials.programs.build import summarise_data

_GPUS = torch.cuda.device_count()
_WORKERS = {"workers": _GPUS or len(os.sched_getaffinity(0))}
# What runs a variant, and what is changed in the problem's config for it.
_USUAL = ("ray_tune", "optuna_serial", "one_lane", "lanes")
VARIANTS = {
    "ray_tune": (ray_tune, {}),
    "ray_tune_by_hand": (partial(ray_tune, by_hand=True), {}),
    "ray_tune_by_4": (partial(ray_tune, cores=4), {}),
    "optuna_serial": (optuna_serial, {}),
    "one_lane": (fewtune, _WORKERS | {"lanes": 1}),
    "lanes": (fewtune, {"workers": 2 * _GPUS, "gpus_per_worker": 0.5} if _GPUS else _WORKERS),
}
# The same for all: what the command line asks for, and no database but the variant's own.
_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",  # with which Tune would print though it is told not to
}
_NOT_OURS = ("MLFLOW_TRACKING_URI", "FEWTUNE_STORAGE", "RAY_ADDRESS")


def main() -> int:
    options = _options()
    os.environ.update(_ENVIRONMENT)
    for name in _NOT_OURS:
        os.environ.pop(name, None)
    home, limits = Home.at(None), Limits(options.seconds, options.patience)
    rows: list[tidy.Row] = []
    courses: dict[str, dict[str, Course]] = {}
    try:
        for problem in options.problems or _default(options.quick):
            for seed in range(options.seeds):
                config = config_of(problem, seed=seed, quick=options.quick, changes=options.set)
                summarise_data(plan_of(config).recipe, home.cache)  # what is computed once, is here
                found, courses[problem] = compare(problem, config, home, options.variants, limits)
                throughput_report.show(problem, found)
                rows += [row | {"seed": seed} for row in found]
                if options.json:
                    tidy.write(options.json, rows, ("torch", "ray", "optuna", "mlflow", "numpy"))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    throughput_report.plot(courses, rows, options.out / "throughput.png")
    return 0


def compare(
    problem: str, config: Config, home: Home, variants: list[str], limits: Limits
) -> tuple[list[tidy.Row], dict[str, Course]]:
    """Rows and courses of the variants on one problem, one after the other."""
    rows: list[tidy.Row] = []
    courses: dict[str, Course] = {}
    for name in variants:
        variant, changes = VARIANTS[name]
        search = config.search.model_copy(update=changes)
        own = config.model_copy(update={"search": search})
        with tempfile.TemporaryDirectory(prefix="fewtune-") as folder:
            started = time.time()
            course, usage = measured(variant, own, Path(folder, name), home.cache, limits)
        courses[name] = course
        figures = _figures(course, usage, started)
        goal = max((score for _, score in courses.get("ray_tune", course).best()), default=math.inf)
        reached = next((at for at, score in course.best() if score >= goal), None)
        if reached is not None:
            figures["seconds_to_reach"] = reached
        rows += [tidy.figure("throughput", problem, name, *one) for one in figures.items()]
    return rows, courses


def _figures(course: Course, usage: Usage, started: float) -> dict[str, float]:
    """All that there are: of a search that was cut off, not all are."""
    begin, seconds, n = course.begin, course.end - course.begin, len(course.ended)
    figures = {
        "steps_per_second": course.steps() / seconds,
        "peak_bytes": usage.peak_bytes,
        "startup_seconds": begin - started,
    }
    if n:
        figures["trials_per_hour"] = 3600 * n / seconds
    if course.recorded is not None:
        cpu = usage.tree_seconds(begin, course.recorded)
        figures["record_seconds"] = course.recorded - course.end
        figures["steps_per_cpu_second"] = course.steps() / cpu
        if n:
            driver = usage.driver_seconds(begin, course.recorded)
            figures["cpu_seconds_per_trial"] = cpu / n
            figures["driver_cpu_seconds_per_trial"] = driver / n
    if best := course.best():
        figures["best_score"] = best[-1][1]
    if course.occupancy is not None:
        figures["occupancy"] = course.occupancy
    return figures | usage.gpu_figures(begin, course.end)


def _default(quick: bool) -> list[str]:
    return [name for name, of in PROBLEMS.items() if not (quick and of.needs_data)]


def _options() -> argparse.Namespace:
    known: Mapping[str, object] = PROBLEMS
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog=f"Problems: {', '.join(known)}."
    )
    parser.add_argument("problems", nargs="*", metavar="PROBLEM", help="all, if none is named")
    parser.add_argument(
        "--quick", action="store_true", help="few short trials; of itself without data"
    )
    parser.add_argument("--seeds", type=int, default=1, help="searches of each problem")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument(
        "--out", type=Path, default=Path(), metavar="DIR", help="where throughput.png goes"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="as in `fewtune search`"
    )
    parser.add_argument(
        "--seconds", type=float, default=math.inf, help="after which a search is cut off"
    )
    parser.add_argument(
        "--patience", type=float, default=600.0, help="seconds to wait for MLflow after a search"
    )
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=_USUAL)
    options = parser.parse_args()
    unknown = sorted(set(options.problems) - known.keys())
    if unknown:
        parser.error(f"no problem {', '.join(unknown)}; there are {', '.join(known)}.")
    return options


if __name__ == "__main__":
    raise SystemExit(main())
