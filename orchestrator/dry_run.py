"""How long a search will take and what a lane costs, from a few steps of one trial."""

import resource
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.home import Home
from orchestrator.plan import Plan, plan_of
from orchestrator.schema import Config
from orchestrator.work import first_trials
from trials.build import build, examine
from trials.contract import TrialProgram

_STEPS = 5


@dataclass(frozen=True)
class Forecast:
    """seconds: of the whole search on one worker like this machine's; bytes_per_lane: of memory."""

    seconds: float
    seconds_per_step: float  # of one lane, with all lanes live
    bytes_per_lane: float
    task_sizes: Mapping[str, int]
    figures: Mapping[str, float]


def dry_run(config: Config, home: Home) -> Forecast:
    """Run a few steps of the first trial, in one lane and in all of them."""
    plan, lanes = plan_of(config), config.search.lanes
    found = examine(plan.recipe, home.cache)
    with tempfile.TemporaryDirectory(prefix="fewtune-") as folder:
        one = build(plan.recipe, lanes=1, folder=Path(folder, "one"), cache=home.cache)
        _measure(plan, one, found.task_sizes)
        before = _peak_bytes(reset=True)
        many = build(plan.recipe, lanes=lanes, folder=Path(folder, "many"), cache=home.cache)
        step, score = _measure(plan, many, found.task_sizes)
        grown = max(0.0, _peak_bytes() - before)
    n_finals = (config.search.finalists + 1) * config.search.seeds
    share = _expected_share(plan)
    trainings = config.search.trials * share + n_finals
    scorings = config.search.trials * len(plan.rungs) * share + 2 * n_finals
    workers = config.search.workers
    return Forecast(
        seconds=(trainings * config.steps * step + scorings * score) / workers,
        seconds_per_step=step,
        bytes_per_lane=grown / lanes,
        task_sizes=found.task_sizes,
        figures=found.figures,
    )


def _measure(
    plan: Plan, program: TrialProgram, task_sizes: Mapping[str, int]
) -> tuple[float, float]:
    """Seconds of a step and of a scoring, of one lane while all are live."""
    decoded = plan.space.decode(first_trials(plan, task_sizes)[0])
    for number in range(program.lanes):
        spec = plan.spec(number, *decoded)
        program.admit(replace(spec, rungs=(1, 1 + _STEPS)))
    program.advance()  # the first step compiles and allocates
    begun = time.perf_counter()
    (*_, report) = program.advance()
    seconds = time.perf_counter() - begun
    step = report.lane_seconds / (1 + _STEPS)
    return step, max(0.0, seconds / program.lanes - step * _STEPS)


def _expected_share(plan: Plan) -> float:
    """Share of all steps that a trial runs on average, if halving stops what it is meant to."""
    share, alive, before = 0.0, 1.0, 0
    for rung in plan.rungs:
        share += alive * (rung - before) / plan.rungs[-1]
        alive, before = alive / plan.eta, rung
    protected = min(1.0, plan.reference_trials / plan.trials)
    return protected + (1 - protected) * share


def _peak_bytes(*, reset: bool = False) -> float:
    """Most memory ever held; after `reset`, where the system can, most since then."""
    status = Path("/proc/self/status")
    if status.exists():
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        line = next(row for row in status.read_text().splitlines() if row.startswith("VmHWM"))
        return 1024.0 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else peak * 1024)
