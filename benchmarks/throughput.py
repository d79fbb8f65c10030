"""Compares the speed of a search, with and without lanes, with Ray Tune and Optuna.

    python benchmarks/throughput.py [PROBLEM...] [--quick] [--seeds N] [--json FILE] [--out DIR]

Variants:
ray_tune: Ray Tune with OptunaSearch, ASHA and its MLflow callback, one trial per core at a time;
ray_tune_by_hand: the same, with the loss rewritten where fewtune's is slow for a single model;
ray_tune_by_4: one trial per four cores, so that fewer trials share a GPU;
optuna_serial: `study.optimize` with a pruner and MLflow, on one core;
one_lane: fewtune with one worker per core, or per GPU, and one lane per worker;
lanes: fewtune in lanes, with one worker per core, or two per GPU: one trains while the other waits
for its next trials.
All variants train the same number of trials and steps, with halving at the same rungs, on the same
episodes. A trial of the other tools reports the same scores as a lane (tests/test_benchmarks.py).
Each tool uses its default sampler.

The clock runs from the first step of the first trial to the last score of the last trial. The time
before is `startup_seconds`; `record_seconds` is the delay of MLflow after the end, and
`recorded_trials_per_hour` counts it as time of the search. CPU seconds are those of all processes
until MLflow has everything. `seconds_to_reach` is the time until a complete trial scored as well as
ray_tune's best. --seconds stops every search at that time after its first report; a trial that
still runs then does not count, but its steps up to its last rung do. Needs Linux, and FEWTUNE_DATA
for every problem except maml_functions.
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
from trials.programs.data_summary import summarise_data

_GPUS = torch.cuda.device_count()
_WORKERS = {"workers": _GPUS or len(os.sched_getaffinity(0))}
# The variants that run by default.
_USUAL = ("ray_tune", "optuna_serial", "one_lane", "lanes")
# The function that runs a variant, and its changes to the `search` section of the config.
VARIANTS = {
    "ray_tune": (ray_tune, {}),
    "ray_tune_by_hand": (partial(ray_tune, by_hand=True), {}),
    "ray_tune_by_4": (partial(ray_tune, cores=4), {}),
    "optuna_serial": (optuna_serial, {}),
    "one_lane": (fewtune, _WORKERS | {"lanes": 1}),
    "lanes": (fewtune, {"workers": 2 * _GPUS, "gpus_per_worker": 0.5} if _GPUS else _WORKERS),
}
# The same for all: the settings of the command line, and only the database of the variant.
_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",  # otherwise Tune prints even with verbose=0
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
                summarise_data(plan_of(config).recipe, home.cache)  # fills the cache
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
    """The rows and courses of the variants on one problem, run one after the other."""
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
    """The available figures; a search that was cut off does not have all of them."""
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
            figures["recorded_trials_per_hour"] = 3600 * n / (course.recorded - begin)
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
    parser.add_argument("problems", nargs="*", metavar="PROBLEM", help="default: all")
    parser.add_argument(
        "--quick", action="store_true", help="few short trials; defaults need no data"
    )
    parser.add_argument("--seeds", type=int, default=1, help="number of searches per problem")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument(
        "--out", type=Path, default=Path(), metavar="DIR", help="folder of throughput.png"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="as in `fewtune search`"
    )
    parser.add_argument(
        "--seconds", type=float, default=math.inf, help="stop every search after this time"
    )
    parser.add_argument(
        "--patience", type=float, default=600.0, help="seconds to wait for MLflow after a search"
    )
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=_USUAL)
    options = parser.parse_args()
    unknown = sorted(set(options.problems) - known.keys())
    if unknown:
        parser.error(f"unknown problem {', '.join(unknown)}; known problems: {', '.join(known)}.")
    return options


if __name__ == "__main__":
    raise SystemExit(main())
