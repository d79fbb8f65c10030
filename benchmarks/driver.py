"""Measures the speed of the driver, and how long a worker waits for its next trials.

    python benchmarks/driver.py [--quick] [--seeds N] [--storage URL] [--json FILE]

This runs the search loop with its journal on disk and the outbox of its recorder, but the trials
train nothing, so all time is the driver's. A study of 100, 1,000 or 10,000 trials is generated
except for its last trials, which are then searched. The outbox is not sent: these figures do not
include MLflow. --storage: a database, which must not have such studies, instead of the journal.

`record_1000` is 1,000 ended trials with ten adaptations each, none of which was sent to MLflow:
`record_seconds` is the time until all of them are in its SQLite database.

`random` draws the suggestions; `fewtune` uses the sampler of a search. A wait is the time from the
turn of a worker to its next orders. Suggestions that are made ahead do not count as waiting, but
they count in the reports per second. Settings: eight lanes, 12 parameters, 3 rungs, 10 validation
tasks. Each seed is a different search.
"""

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial
from simulated_trials import RECIPE
from tidy import Row, figure, row, show, write

from fewshot.metrics import Estimate, estimate
from orchestrator.config.plan import Plan
from orchestrator.executors.inline import InlineExecutor
from orchestrator.record.search_records import open_records
from orchestrator.record.studies.study import distributions, open_storage
from orchestrator.sampling.ranked_trials import RankedTrials
from orchestrator.sampling.sampler import Sampler
from orchestrator.search.loop import run_search
from orchestrator.space.search_space import Range, SearchSpace, Values
from orchestrator.space.simplex import Simplex
from orchestrator.tracking.dashboard import tracking_uri
from orchestrator.tracking.mlflow_client import connect
from orchestrator.tracking.mlflow_runs import OutboxRecorder
from orchestrator.tracking.sending import mlflow_sender
from orchestrator.tracking.sending.outbox import Outbox
from trials.contract import (
    AdaptationResult,
    Outcome,
    RungReport,
    TrialResult,
    TrialSpec,
    Turn,
)

LANES = 8
SIZES = {f"task_{i}": 100 for i in range(10)}
HELD_OUT = tuple(f"alphabet_{i}" for i in range(10))
SPACE = SearchSpace(
    {name: Range(1e-4, 1e-1, log=True) for name in ("lr/outer", "lr/inner", "lr/adapt")},
    {},
    Simplex(tuple(SIZES), (0.1,) * 10),
)
# Number of trials that are searched after the study was generated, by variant.
SEARCHED = {"random": 400, "fewtune": 48}


class Idle:
    """A `TrialProgram` that trains nothing; the score falls with the distance from a rate."""

    def __init__(self) -> None:
        self.lanes, self.lane_steps, self.capacity_steps = LANES, 0, 0
        self._live: dict[str, tuple[TrialSpec, int]] = {}

    @property
    def free(self) -> int:
        return self.lanes - len(self._live)

    def admit(self, spec: TrialSpec) -> None:
        self._live[spec.key] = (spec, 0)

    def advance(self) -> list[RungReport]:
        for key, (spec, step) in self._live.items():
            self._live[key] = spec, next(rung for rung in spec.rungs if rung > step)
        return [self._report(spec, step) for spec, step in self._live.values()]

    def _report(self, spec: TrialSpec, step: int) -> RungReport:
        score = Estimate(_score(spec.hyperparameters, step), 0.01, 10)
        return RungReport(
            key=spec.key,
            step=step,
            score=score,
            per_task=dict.fromkeys(HELD_OUT, score),
            metrics={f"val/{task}/{name}": 0.5 for task in HELD_OUT for name in ("accuracy", "f1")},
            time=time.time(),
            seconds=1.0,
            lane_seconds=1.0,
        )

    def ended(self) -> list[TrialResult]:
        return []

    def interrupt(self) -> None: ...

    def release(self, key: str, outcome: Outcome) -> TrialResult:
        spec, step = self._live.pop(key)
        score = Estimate(_score(spec.hyperparameters, step), 0.01, 10)
        adaptations = tuple(
            AdaptationResult(
                task=task,
                split="validation",
                score=score,
                metrics={"accuracy": 0.5, "f1": 0.5},
                time=time.time(),
                seconds=1.0,
            )
            for task in HELD_OUT
        )
        return TrialResult(
            key=key,
            outcome=outcome,
            step=step,
            adaptations=adaptations if outcome == "complete" else (),
            time=time.time(),
        )


def _score(params: Mapping[str, float], step: int) -> float:
    return 0.005 * step - abs(math.log10(params["lr/outer"]) + 2)


class Timed(InlineExecutor):
    """Counts reports and measures how long the worker waits for orders after each turn."""

    def __init__(self) -> None:
        super().__init__(Idle)
        self.reports, self.waits, self._since = 0, list[float](), 0.0

    def turn(self) -> Turn | None:
        turn = super().turn()
        self.reports += 0 if turn is None else len(turn.reports)
        self._since = time.perf_counter()
        return turn

    def send_orders(
        self, worker: int, release: Mapping[str, Outcome], admit: Sequence[TrialSpec]
    ) -> None:
        if self.reports:  # before the first turn no worker waits
            self.waits.append(time.perf_counter() - self._since)
        super().send_orders(worker, release, admit)


def plan(trials: int, seed: int) -> Plan:
    return Plan(
        name="driver",
        seed=seed,
        recipe=RECIPE,
        space=SPACE,
        rungs=(30, 60, 100),
        eta=2.0,
        trials=trials,
        reference_trials=8,
        finalists=0,
        seeds=1,
        trial_seed=None,
    )


def drawn(n: int, seed: Sequence[int]) -> list[Values]:
    rng = np.random.default_rng(seed)
    return [{name: r.at(rng.random()) for name, r in SPACE.box().items()} for _ in range(n)]


def drawing(seed: int) -> Callable[..., list[Values]]:
    """A replacement for `Sampler.suggest` that draws at random."""
    return lambda sampler, trials, ahead, n: drawn(n, [seed, len(trials.trials) + len(ahead)])


def make_up(storage: BaseStorage, name: str, n: int, rungs: Sequence[int]) -> None:
    """Create a study with n ended trials; half of them ended at the first rung."""
    study = storage.create_new_study([StudyDirection.MAXIMIZE], name)
    ranges = distributions(SPACE.box())
    for number, params in enumerate(drawn(n, [0])):
        reached = rungs if number % 2 else rungs[:1]
        scores = {step: _score(params, step) for step in reached}
        state = TrialState.COMPLETE if number % 2 else TrialState.PRUNED
        score = scores[reached[-1]]
        storage.create_new_trial(
            study,
            create_trial(
                state=state,
                value=score,
                params=params,
                distributions=ranges,
                intermediate_values=scores,
            ),
        )


def measure(variant: str, n: int, seed: int, folder: Path, url: str = "") -> dict[str, float]:
    """The figures for the last trials of a search of `n` trials. url: a database, or empty."""
    made = replace(plan(n, seed), name=f"driver_{variant}_{n}_{seed}")
    suggest = drawing(seed) if variant == "random" else Sampler.suggest

    def drawn_last(sampler: Sampler, trials: RankedTrials, left: int) -> Values:
        return suggest(sampler, trials, [], 1)[0]

    last = drawn_last if variant == "random" else Sampler.last
    with open_storage(url or str(folder / "driver.journal")) as storage:
        make_up(storage, made.name, max(0, n - SEARCHED[variant]), made.rungs)
        records = open_records(made, storage)
        outbox = Outbox(folder / "outbox")
        recorder = OutboxRecorder(outbox)
        recorder.search_started(name="driver", experiment="x", params={}, tags={}, time=time.time())
        executor = Timed()
        wall, cpu = time.perf_counter(), time.process_time()
        with patch.object(Sampler, "suggest", suggest), patch.object(Sampler, "last", last):
            run_search(made, records, executor, recorder, task_sizes=SIZES)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        recorder.close()
    return {
        "reports_per_second": executor.reports / wall,
        "cpu_ms_per_report": 1000 * cpu / executor.reports,
        "wait_ms": 1000 * float(np.median(executor.waits)),
        "longest_wait_ms": 1000 * max(executor.waits),
    }


def measure_record(trials: int, seed: int, folder: Path) -> dict[str, float]:
    """The figures of a record of which nothing was sent when the search ended."""
    uri, program, made = tracking_uri(folder), Idle(), plan(trials, seed)
    connect(uri)  # creates the database
    recorder = OutboxRecorder(Outbox(folder / "search"))
    recorder.search_started(name="driver", experiment="x", params={}, tags={}, time=time.time())
    for number, params in enumerate(drawn(trials, [seed])):
        spec = made.trial(number, params)
        recorder.trial_started(spec, time=time.time())
        program.admit(spec)
        for _ in spec.rungs:
            recorder.reported(*program.advance())
        recorder.trial_ended(program.release(spec.key, "complete"), state="complete")
    recorder.close()
    wall, cpu = time.perf_counter(), time.process_time()
    sending = mlflow_sender.recorder(folder / "search", uri, "driver")
    if not sending.drain(timeout=3600):
        raise RuntimeError("MLflow has not received everything within an hour.")
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    sending.close()
    return {"record_seconds": wall, "record_cpu_seconds": cpu}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="without the 10,000 trials")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--storage", default="", metavar="URL", help="default: a journal")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for metric, value in measure_record(1_000, 0, Path(folder)).items():
            rows.append(figure("driver", "record_1000", "fewtune", metric, value))
    show(rows)
    for n in (100, 1_000) if options.quick else (100, 1_000, 10_000):
        for variant in SEARCHED:
            found = []
            for seed in range(options.seeds):
                with tempfile.TemporaryDirectory() as folder:
                    found.append(measure(variant, n, seed, Path(folder), options.storage))
            rows += [
                row("driver", f"{n}_trials", variant, metric, estimate(_values(found, metric)))
                for metric in found[0]
            ]
            show(rows[-len(found[0]) :])
    if options.json:
        write(options.json, rows, ("optuna", "torch"))


def _values(found: Sequence[Mapping[str, float]], metric: str) -> torch.Tensor:
    return torch.tensor([one[metric] for one in found])


if __name__ == "__main__":
    main()
