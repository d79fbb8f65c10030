"""Measures how many workers one driver keeps busy, with simulated workers in simulated time.

    python benchmarks/simulate_cluster.py [PROBLEM...] [--quick] [--seeds N] [--workers N...]
        [--json FILE]

The search loop, the study with its journal, the outbox and the sampler are those of a search. Only
the workers are simulated: their scores are those of a landscape, and their turns take the time that
was measured on one H200 with 64 lanes (docs/log.md); `one_lane_1_second` is the least that a worker
can do. The driver's time is measured: its CPU time,
and the time of each fsync. Not included: Ray's own messages, and the sending to MLflow.

Figures count from the end of the second turns, when trials have ended, for the time of two turns
and until enough reports have been handled. `workers_busy` is the share of this time in which the
workers train, `driver_busy` the share in which the driver works. `ms_per_report` is the driver's
time per report; `suggest`, `study`, ... are its parts. One trial makes one to three reports.
"""

import argparse
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tidy
import torch
from search_quality_landscapes import PROBLEMS as LANDSCAPES
from simulated_cluster import DriverClock, SimulatedCluster, Timing
from simulated_trials import RECIPE, SimulatedTrials

from fewshot.metrics import estimate
from orchestrator.config.plan import Plan
from orchestrator.record.search_records import open_records
from orchestrator.record.studies.study import StudyRecord, open_storage
from orchestrator.sampling.ranked_trials import RankedTrials
from orchestrator.sampling.sampler import Sampler
from orchestrator.search.decisions.trial_sources import SearchTrials
from orchestrator.search.loop import Stopped, run_search
from orchestrator.space.search_space import SearchSpace
from orchestrator.tracking.mlflow_runs import OutboxRecorder
from orchestrator.tracking.sending.outbox import Outbox

TASKS, NOISE = 10, 0.02
WORKERS, QUICK = (1, 4, 16, 64, 256, 1000), (1, 4, 16, 64)
REPORTS, QUICK_REPORTS = 8_000, 2_000  # that are counted at least
PARTS = {
    "suggest": [(Sampler, "suggest")],
    "rank": [(RankedTrials, "update")],
    "study": [(StudyRecord, name) for name in ("ask", "report", "finish", "note", "trials")],
    "sync": [(StudyRecord, "sync")],
    "decide": [(SearchTrials, "decide")],
    "record": [(OutboxRecorder, f"trial_{name}") for name in ("started", "ended")]
    + [(OutboxRecorder, "reported")],
}


@dataclass(frozen=True)
class Problem:
    """A search: its number of steps, and the time of a step of all lanes of a worker."""

    steps: int
    timing: Timing
    lanes: int = 64

    @property
    def rungs(self) -> tuple[int, ...]:
        return 3 * self.steps // 10, 6 * self.steps // 10, self.steps

    def longest_turn(self) -> float:
        """Seconds from the last rung but one to the last, with reports of all lanes."""
        return self.timing.step * (self.rungs[2] - self.rungs[1]) + self.timing.report * self.lanes


_MAML, _CONVOLUTIONS = Timing(step=1.011e-3, report=0.8e-3), Timing(step=13.6e-3, report=0.8e-3)
PROBLEMS: Mapping[str, Problem] = {
    "one_lane_1_second": Problem(1_000, Timing(step=1e-3, report=0), lanes=1),  # not measured
    "one_lane_2_seconds": Problem(2_000, Timing(step=1e-3, report=0), lanes=1),  # not measured
    "maml_functions": Problem(1_000, _MAML),
    "maml_sinusoid_70000": Problem(70_000, _MAML),  # the steps of the MAML paper
    "protonet_omniglot_conv": Problem(500, _CONVOLUTIONS),
    "omniglot_conv_60000": Problem(60_000, _CONVOLUTIONS),  # the steps of the MAML paper
}


def plan(space: SearchSpace, rungs: tuple[int, ...], trials: int, seed: int) -> Plan:
    return Plan(
        name="cluster",
        seed=seed,
        recipe=RECIPE,
        space=space,
        rungs=rungs,
        eta=2.0,
        trials=trials,
        reference_trials=8,
        finalists=0,
        seeds=1,
        trial_seed=None,
    )


def measure(problem: Problem, workers: int, seed: int, reports: int) -> dict[str, float]:
    """The figures of one search, which is stopped when it has been measured."""
    lanes = problem.lanes
    landscape = LANDSCAPES["sparse_8"](np.random.default_rng(seed))
    made = plan(landscape.space, problem.rungs, 20 * (workers * lanes + reports), seed)
    clock = DriverClock()

    def program() -> SimulatedTrials:
        return SimulatedTrials(landscape, NOISE, lanes, tasks=TASKS, spread=0.02, seed=seed)

    cluster = SimulatedCluster(program, workers, problem.timing, clock)
    window = _Window(cluster, clock, problem.longest_turn(), reports)
    with tempfile.TemporaryDirectory(prefix="fewtune-") as folder:
        recorder = OutboxRecorder(Outbox(Path(folder, "outbox")))
        recorder.search_started(name="x", experiment="x", params={}, tags={}, time=time.time())
        with open_storage(str(Path(folder, "study.journal"))) as storage, clock.watching(PARTS):
            records = open_records(made, storage)
            sizes = dict.fromkeys(made.space.weights.tasks, 100)
            with suppress(Stopped):
                run_search(
                    made, records, cluster, recorder, task_sizes=sizes, should_stop=window.is_over
                )
        recorder.close()
    return window.figures()


class _Window:
    """The figures between two moments of a simulation. turn: the seconds of the longest turn."""

    def __init__(
        self, cluster: SimulatedCluster, clock: DriverClock, turn: float, reports: int
    ) -> None:
        self._cluster, self._clock = cluster, clock
        self._turn, self._reports = turn, reports
        self._first: dict[str, float] | None = None
        self._last: dict[str, float] = {}

    def is_over(self) -> bool:
        now, reports = self._cluster.now, self._cluster.reports
        if self._first is None:
            if self._cluster.turns >= 2 * self._cluster.workers:
                self._first = self._counts()
            return False
        if now < self._first["now"] + 2 * self._turn:
            return False
        if reports < self._first["reports"] + self._reports:
            return False
        self._last = self._counts()
        return True

    def _counts(self) -> dict[str, float]:
        one = self._cluster
        counts = {name: getattr(one, name) for name in ("now", "busy", "reports", "turns")}
        counts["waited"] = one.waited()
        parts = {f"part/{name}": seconds for name, seconds in self._clock.parts.items()}
        return counts | parts

    def figures(self) -> dict[str, float]:
        first = self._first
        assert first is not None, "every worker had trials"
        counted = {name: value - first.get(name, 0.0) for name, value in self._last.items()}
        seconds, reports = counted["now"], counted["reports"]
        lost = counted["waited"] / (seconds * self._cluster.workers)
        figures = {
            "workers_busy": 100 * (1 - lost),
            "driver_busy": 100 * counted["busy"] / seconds,
            "reports_per_second": reports / seconds,
            "ms_per_report": 1000 * counted["busy"] / reports,
            "reports_per_turn": reports / counted["turns"],
        }
        parts = {
            f"{name.removeprefix('part/')}_ms": 1000 * value / reports
            for name, value in counted.items()
            if name.startswith("part/")
        }
        parts["other_ms"] = figures["ms_per_report"] - sum(parts.values())
        return figures | parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("problems", nargs="*", choices=[[], *PROBLEMS], metavar="PROBLEM")
    parser.add_argument("--quick", action="store_true", help="up to 64 workers, fewer reports")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--workers", type=int, nargs="+", help="default: 1 to 1000")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[tidy.Row] = []
    for name in options.problems or PROBLEMS:
        for workers in options.workers or (QUICK if options.quick else WORKERS):
            reports = QUICK_REPORTS if options.quick else REPORTS
            seeds = range(options.seeds)
            found = [measure(PROBLEMS[name], workers, seed, reports) for seed in seeds]
            new = [
                tidy.row("simulate_cluster", name, f"{workers}_workers", metric, estimate(values))
                for metric in found[0]
                if (values := torch.tensor([one[metric] for one in found])) is not None
            ]
            tidy.show(new)
            rows += new
            if options.json:
                tidy.write(options.json, rows, ("optuna", "torch", "botorch"))


if __name__ == "__main__":
    main()
