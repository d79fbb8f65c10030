"""The estimated cost of a search, from a few steps of one trial."""

import math
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fewshot.errors.inputs import ErrorDetail, InputError, input_error
from orchestrator.config.plan import Plan, plan_of, recipes_of
from orchestrator.config.sections.own_loop import AnyConfig, OwnLoopConfig
from orchestrator.record.home import Home
from orchestrator.sampling.optuna_samplers import sampler_of
from orchestrator.search.advice import Advice, advice_on_config
from orchestrator.search.decisions.trial_sources import first_trials
from orchestrator.search.durations import duration
from orchestrator.search.finals.retrainings import most_retrainings
from trials.contract import TrialSpec
from trials.errors import TrialError, advance_or_raise
from trials.lanes import memory
from trials.lanes.capacity import UNREACHED, step_seconds, useful_lanes
from trials.lanes.lanes import Lanes
from trials.programs.build import best_device, programs
from trials.programs.data_summary import DataSummary, summarise_data

# Recommended minimum of trials per lane. The sampler learns from trials that have ended, so it
# needs several rounds. At the end of the search and of the finals, lanes become empty one by one.
# With this many rounds, trials use 95 % of the lane steps.
_TRIALS_PER_LANE = 32
_AROUND = 20  # seconds of a search in which no trial is trained: 15 to 25 on two cores


@dataclass(frozen=True)
class Forecast:
    """The estimated cost of a search.

    seconds: duration of the trials on workers like this machine; starting the processes and
    writing the report come on top. bytes_per_lane, bytes_of_worker: memory. These and
    `seconds_per_step` are NaN for an own loop, of which no step is run.
    """

    seconds: float
    lanes: int
    seconds_per_step: float  # for one lane, while all lanes train; the mean over the recipes
    bytes_per_lane: float  # of the recipe that needs most
    bytes_of_worker: float  # of a process with all its lanes; on a GPU, of the GPU's memory
    steps: int  # of a whole trial; the mean over the recipes
    task_sizes: Mapping[str, int]
    figures: Mapping[str, float]
    advice: Sequence[Advice]
    dropped: Mapping[str, int]  # examples of each split that a later split contains too
    trials: int = 0  # of the search
    kinds: Sequence[str] = ()  # of workers, in words

    def __str__(self) -> str:
        """The forecast in lines of text; the advice is in `advice`."""
        lines = []
        if self.task_sizes:
            tasks = ", ".join(f"{task} {n}" for task, n in self.task_sizes.items())
            lines.append(f"training tasks (examples): {tasks}")
        lines += [
            f"dropped from {split}: {n} examples that a later split has too"
            for split, n in self.dropped.items()
        ]
        lines += [f"for comparison, the {who}: {100 * x:.1f} %" for who, x in self.figures.items()]
        lines += [f"workers: {kind}" for kind in self.kinds]
        size = f"{self.trials} trials of {self.steps} steps"
        if math.isnan(self.seconds):
            return "\n".join([*lines, f"search: {size}; a training function is not timed before"])
        return "\n".join(
            [
                *lines,
                f"search: about {duration(self.seconds)} on this machine, {size}, "
                f"{1000 * self.seconds_per_step:.1f} ms for each step of a lane; starting and "
                f"reporting add some {_AROUND} s",
                f"lanes: {self.lanes}, with about {self.bytes_per_lane / 2**20:.0f} MB of memory "
                f"each; a worker with all of them needs {self.bytes_of_worker / 2**20:.0f} MB",
            ]
        )

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What a notebook shows."""
        printer.text(str(self))


def forecast(config: AnyConfig, home: Home) -> Forecast:
    """Estimate the cost of a search: run a few steps of the first trials in one and in all lanes.

    If options of the recipe are searched, each recipe of the first trials is measured.
    """
    plan = plan_of(config)
    sampler_of(plan)  # finds the errors of a user's sampler
    summary = checked_data(config, home)
    kinds = [str(kind) for kind in config.search.kinds]
    if isinstance(config, OwnLoopConfig):
        unknown, advice = math.nan, advice_on_config(config, ())
        return Forecast(
            *(unknown, 1, unknown, unknown, unknown, config.steps, {}, {}, advice, {}),
            trials=config.search.trials,
            kinds=kinds,
        )
    lanes = lanes_of(config, plan, summary, home)
    if not isinstance(lanes, int):
        lanes = lanes()
    costs = []
    for spec in _first_specs(plan, summary):
        with config.placing(spec.choices):
            costs.append(_cost(spec, lanes, config, home))
    steps, step, score = (
        sum(values) / len(costs) for values in zip(*[c[:3] for c in costs], strict=True)
    )
    whole = sum(steps * step for steps, step, *_ in costs) / len(costs)
    n_finals = most_retrainings(plan)
    share = _expected_share(plan)
    trainings = config.search.trials * share + n_finals
    scorings = config.search.trials * len(plan.rungs) * share + 2 * n_finals
    gpus = best_device().type == "cuda"
    at_once = workers_of(config) / (workers_per_gpu(config) if gpus else 1)
    return Forecast(
        seconds=(trainings * whole + scorings * score) / at_once,
        lanes=lanes,
        seconds_per_step=step,
        bytes_per_lane=max(cost[3] for cost in costs),
        bytes_of_worker=max(cost[4] for cost in costs),
        steps=round(steps),
        task_sizes=summary.task_sizes,
        figures=summary.figures,
        advice=advice_on_config(config, summary.features),
        dropped=summary.dropped,
        trials=config.search.trials,
        kinds=kinds,
    )


def checked_data(config: AnyConfig, home: Home) -> DataSummary:
    """The data of the plain config; raises InputError with the errors of all recipes."""
    found, details = [], dict[str, ErrorDetail]()
    for values, recipe in recipes_of(config):
        try:
            with config.placing(values):
                found.append(summarise_data(recipe, home.cache, **concurrency(config)))
        except InputError as error:
            details |= {str(detail): detail for detail in error.details}
    if details:
        raise InputError(details.values())
    return found[0]


def _cost(
    spec: TrialSpec, lanes: int, config: AnyConfig, home: Home
) -> tuple[int, float, float, float, float]:
    """Steps; seconds of one of them and of a scoring for one lane; bytes of a lane, of a worker."""
    program = programs(spec.recipe, home.cache, threads=config.search.cpus_per_worker)
    device: torch.device = program.keywords["device"]
    with tempfile.TemporaryDirectory(prefix="fewtune-") as folder:
        _measure(spec, program(lanes=1, folder=Path(folder)))
        before = memory.peak(device, reset=True)
    with tempfile.TemporaryDirectory(prefix="fewtune-") as folder:
        step, score = _measure(spec, program(lanes=lanes, folder=Path(folder)))
        grown = max(0.0, memory.peak(device) - before)
    return spec.rungs[-1], step, score, grown / lanes, before + grown


def lanes_of(
    config: AnyConfig, plan: Plan, found: DataSummary, home: Home
) -> int | Callable[[], int]:
    """The number of lanes per worker; for `auto`, a function that measures it."""
    if config.search.lanes != "auto":
        return config.search.lanes
    workers = workers_of(config)
    return partial(
        useful_lanes,
        partial(programs, plan.recipe, home.cache, threads=config.search.cpus_per_worker),
        first_spec(plan, found),
        at_most=max(1, config.search.trials // (_TRIALS_PER_LANE * workers)),
        workers=workers,
        per_gpu=workers_per_gpu(config),
    )


def concurrency(config: AnyConfig) -> dict[str, int]:
    """The number of lanes per worker and of workers, for the check of this machine's memory."""
    lanes = 1 if config.search.lanes == "auto" else config.search.lanes
    elsewhere = os.environ.get("RAY_ADDRESS")
    return {"lanes": lanes, "workers": 1 if elsewhere else workers_of(config)}


def workers_of(config: AnyConfig) -> int:
    """The number of workers; for `auto`, as many as this machine has room for."""
    search = config.search
    if search.n_workers is not None:
        return search.n_workers
    gpus, share = torch.cuda.device_count(), search.gpus_per_worker
    if gpus and share != 0:
        return max(1, int(gpus / (share or 1)))
    return max(1, (os.cpu_count() or 1) // search.cpus_per_worker)


def workers_per_gpu(config: AnyConfig) -> int:
    """How many workers share one GPU; 1 without GPUs."""
    share = config.search.gpus_per_worker
    return int(1 / share) if share else 1


def first_spec(plan: Plan, found: DataSummary) -> TrialSpec:
    """The first trial of the search."""
    return _first_specs(plan, found)[0]


def _first_specs(plan: Plan, found: DataSummary) -> list[TrialSpec]:
    """A trial for each recipe among the first trials; trials that differ in steps count too."""
    specs: dict[object, TrialSpec] = {}
    for params in first_trials(plan, found.task_sizes):
        spec = plan.trial(0, params)
        specs.setdefault((spec.recipe.fingerprint, spec.rungs), spec)
    return list(specs.values())


def _measure(spec: TrialSpec, program: Lanes) -> tuple[float, float]:
    """Seconds per lane of one step and of one scoring, while all lanes train."""
    for number in range(program.lanes):
        program.admit(replace(spec, number=number, rungs=(1, 2, UNREACHED)))
    try:
        # The first step also allocates memory and draws the validation episodes.
        before = advance_or_raise(program)[-1].seconds
        started = time.perf_counter()
        trained = advance_or_raise(program)[-1].seconds - before
        scored = time.perf_counter() - started - trained
    except TrialError as error:
        part = "learner" if spec.recipe.program == "meta_training" else "model"
        raise input_error(part, f"can't be trained: {error}") from error
    return step_seconds(program) / program.lanes, scored / program.lanes


def _expected_share(plan: Plan) -> float:
    """Expected share of its steps that a trial runs, if halving prunes as planned."""
    share, alive, before = 0.0, 1.0, 0
    for rung in plan.rungs:
        share += alive * (rung - before) / plan.rungs[-1]
        alive, before = alive / plan.eta, rung
    protected = min(1.0, plan.reference_trials / plan.trials)
    return protected + (1 - protected) * share
