"""Trials whose scores are a known function, so that a search of them takes no time."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from fewshot.errors.parts import failure_of
from fewshot.metrics import Estimate
from orchestrator.config.plan import Plan, derived_seed
from orchestrator.executors.inline import InlineExecutor
from orchestrator.record.search_records import SearchRecords
from orchestrator.record.studies.study import StudyRecord
from orchestrator.sampling.ranked_trials import RankedTrials
from orchestrator.sampling.sampler import Sampler
from orchestrator.space.search_space import Range, SearchSpace, Values
from orchestrator.space.simplex import Simplex
from trials.contract import (
    AdaptationResult,
    Component,
    Outcome,
    Recipe,
    RungReport,
    TrialResult,
    TrialSpec,
    Turn,
)

TASKS = ("clean", "mixed", "noise")
HELD_OUT = ("angelic", "braille")
SIZES = dict(zip(TASKS, (300, 100, 200), strict=True))
RECIPE = Recipe(
    program="toy",
    datasets={},
    tasks={},
    model=Component(name="none"),
    learner=Component(name="none"),
    way=5,
    shot=1,
    query=5,
    episodes=1,
    validation_episodes=1,
    test_episodes=1,
)


def plan(**changes: Any) -> Plan:
    """A search of three weights and a rate: 12 trials, of which 3 are references."""
    simplex = Simplex(TASKS, (1 / 3,) * 3, half_width=3.5, zero_below=0.05)
    return Plan(
        **{
            "name": "toy",
            "seed": 0,
            "recipe": RECIPE,
            "space": SearchSpace({"lr/outer": Range(1e-4, 1e-1, log=True)}, {}, simplex),
            "rungs": (3, 6, 10),
            "eta": 2.0,
            "trials": 12,
            "reference_trials": 3,
            "finalists": 2,
            "seeds": 2,
            "trial_seed": None,
        }
        | changes
    )


def skill(spec: TrialSpec, step: int) -> float:
    """Best at a rate of 0.01 and all weight on the clean task; better with each step."""
    w = spec.task_weights
    rate = math.log10(spec.hyperparameters["lr/outer"]) + 2
    noise = np.random.default_rng([spec.seed, step]).normal(0, 0.002)
    best = 0.8 - 0.1 * rate**2 - 0.3 * w["noise"] - 0.1 * w["mixed"]
    return float(best * (0.5 + 0.05 * step) + noise)


@dataclass
class _Lane:
    spec: TrialSpec
    step: int = 0


class Toy:
    """The `TrialProgram` of `score`. Nothing is on disk: what is begun again starts afresh."""

    def __init__(self, lanes: int = 4, score: Callable[[TrialSpec, int], float] = skill) -> None:
        self.lanes, self.lane_steps, self.capacity_steps = lanes, 0, 0
        self._score = score
        self._queue: list[TrialSpec] = []
        self._ended: list[TrialResult] = []
        self._live: dict[str, _Lane] = {}

    @property
    def free(self) -> int:
        return max(0, self.lanes - len(self._live) - len(self._queue))

    def admit(self, spec: TrialSpec) -> None:
        assert spec.key not in self._live, "a trial is on one worker once"
        self._queue.append(spec)

    def advance(self) -> list[RungReport]:
        while self._queue and len(self._live) < self.lanes:
            spec = self._queue.pop(0)
            self._live[spec.key] = _Lane(spec)
        if not self._live:
            return []
        due = {
            key: next((r for r in x.spec.rungs if r > x.step), 0) for key, x in self._live.items()
        }
        steps = min(due[key] - lane.step for key, lane in self._live.items())
        self.lane_steps += steps * len(self._live)
        self.capacity_steps += steps * self.lanes
        for lane in self._live.values():
            lane.step += steps
        reports = []
        for lane in [x for key, x in self._live.items() if x.step == due[key]]:
            try:
                reports.append(self._report(lane))
            except ArithmeticError as error:  # which the toys' scores raise
                self._fail(lane.spec.key, error)
        return reports

    def _fail(self, key: str, error: Exception) -> None:
        result = self.release(key, "failed", adapt=False)
        failure = failure_of(error)
        self._ended.append(replace(result, error=failure.message, traceback=failure.traceback))

    def ended(self) -> list[TrialResult]:
        ended, self._ended = self._ended, []
        return ended

    def release(self, key: str, outcome: Outcome, *, adapt: bool = True) -> TrialResult:
        lane = self._live.pop(key)
        adaptations = (
            ()
            if not adapt
            else tuple(
                AdaptationResult(
                    task=task,
                    split="test" if lane.spec.stage == "test" else "validation",
                    score=score,
                    metrics={"accuracy": 0.2 + 0.8 * score.mean},
                    time=1000.0 + lane.step,
                    seconds=1.0,
                )
                for task, score in self._per_task(lane).items()
            )
        )
        return TrialResult(
            key=key,
            outcome=outcome,
            step=lane.step,
            adaptations=adaptations if outcome == "complete" else (),
            error="diverged" if outcome == "failed" else None,
            time=1000.0 + lane.step,
        )

    def _per_task(self, lane: _Lane) -> dict[str, Estimate]:
        score = self._score(lane.spec, lane.step)
        return {
            task: Estimate(score + 0.01 * (2 * i - 1), 0.01, 10) for i, task in enumerate(HELD_OUT)
        }

    def _report(self, lane: _Lane) -> RungReport:
        per_task = self._per_task(lane)
        return RungReport(
            key=lane.spec.key,
            step=lane.step,
            score=Estimate(sum(e.mean for e in per_task.values()) / 2, 0.007, 20),
            per_task=per_task,
            metrics={},
            time=1000.0 + lane.step,
            seconds=float(lane.step),
            lane_seconds=float(lane.step),
        )


class Crash(Exception):
    """The process dies."""


class Crashing(InlineExecutor):
    """Dies at its k-th turn, before (`late=False`) or after the worker has had it."""

    def __init__(self, make: Callable[[], Toy], k: int, *, late: bool = False) -> None:
        super().__init__(make)
        self._left, self._late = k, late

    def turn(self) -> Turn | None:
        self._left -= 1
        if self._left < 0 and not self._late:
            raise Crash
        turn = super().turn()
        if self._left < 0:
            raise Crash
        return turn


class Losing(InlineExecutor):
    """Loses the worker, with all that it has, at the turns in `at`."""

    def __init__(self, make: Callable[[], Toy], at: Sequence[int]) -> None:
        super().__init__(make)
        self._make, self._at, self._turn = make, set(at), 0

    def turn(self) -> Turn | None:
        self._turn += 1
        if self._turn not in self._at or not self._orders:
            return super().turn()
        worker, release, _ = self._orders.popleft()
        self._workers[worker] = type(self._workers[worker])(worker, self._make())
        return self._without(worker, release)

    def _without(self, worker: int, release: Mapping[str, Outcome]) -> Turn:
        return self._roster.lost(worker, release)


@dataclass
class Told:
    """A `Recorder` in memory that keeps a key once, and can be told to die at its k-th call."""

    crash_at: int | None = None
    events: dict[tuple[Any, ...], Any] = field(default_factory=dict)
    starts: list[tuple[str, int]] = field(default_factory=list)
    tracebacks: dict[str, str] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    loads: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    calls: int = 0

    def _keep(self, key: tuple[Any, ...], what: Any = None) -> None:
        if self.calls == self.crash_at:
            raise Crash
        self.calls += 1
        self.events.setdefault(key, what)

    def search_started(self, **what: Any) -> None:
        self._keep(("search started",), what)

    def trial_started(self, spec: TrialSpec, *, time: float, origin: str = "") -> None:
        self.starts.append((spec.key, spec.attempt))
        self.origins[spec.key] = origin
        self._keep(("started", spec.key), dict(spec.hyperparameters))

    def reported(self, report: RungReport) -> None:
        self._keep(("reported", report.key, report.step), report.score.mean)

    def trial_interrupted(self, spec: TrialSpec, *, time: float) -> None:
        self._keep(("interrupted", spec.key, spec.attempt))

    def trial_ended(self, result: TrialResult, *, state: Outcome, note: str = "") -> None:
        self._keep(("ended", result.key), (state, note))
        self.tracebacks[result.key] = result.traceback or ""

    def worker_load(self, worker: int, load: Mapping[str, float], *, time: float) -> None:
        self.loads.append((worker, dict(load)))  # a different one each time

    def search_ended(self, **what: Any) -> None:
        self._keep(("search ended",), what)

    def backlog(self) -> int:
        return 0

    def drain(self, timeout: float) -> bool:
        return True

    def close(self) -> None: ...

    def ends(self) -> dict[str, tuple[Outcome, str]]:
        return {key[1]: what for key, what in self.events.items() if key[0] == "ended"}


def records(storage: Any, of: Plan) -> SearchRecords:
    """The three studies of a search, new or as they were left."""
    return SearchRecords(
        StudyRecord.open(storage, of.name, of.space.box()),
        StudyRecord.open(storage, f"{of.name}/final", {}),
        StudyRecord.open(storage, f"{of.name}/test", {}),
    )


def quick_suggest(
    sampler: Sampler, trials: RankedTrials, ahead: Sequence[Values], n: int = 1
) -> list[Values]:
    """In place of the sampler's own, where it does not matter what is suggested: at random."""
    rng = np.random.default_rng(derived_seed(sampler._seed, len(trials.trials) + len(ahead)))
    box = sampler._space.box()
    return [{name: r.at(rng.random()) for name, r in box.items()} for _ in range(n)]


def quick_sampler(patch: pytest.MonkeyPatch) -> None:
    """Suggestions at random, which are made ahead from the first on."""
    patch.setattr(Sampler, "suggest", quick_suggest)
    patch.setattr(Sampler, "has_model", lambda *_: True)
    patch.setattr(Sampler, "last", lambda self, trials, left: quick_suggest(self, trials, [])[0])
