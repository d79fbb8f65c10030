"""Simulated trials: their scores are those of a landscape, with noise, and take no time."""

import math
import time
from collections.abc import Mapping

import numpy as np
from search_quality_landscapes import Landscape

from fewshot.metrics import Estimate
from trials.contract import (
    AdaptationResult,
    Component,
    Outcome,
    Recipe,
    RungReport,
    TrialResult,
    TrialSpec,
)

START = 0.2  # the score before training
HELD_OUT = "held_out"
# Simulated trials read nothing of their recipe.
RECIPE = Recipe(
    program="none",
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


class SimulatedTrials:
    """The `TrialProgram` of a landscape.

    A trial approaches its true score exponentially; at a fourth of the steps it has half of its
    gain. Each report has independent noise.
    """

    def __init__(self, landscape: Landscape, noise: float, lanes: int) -> None:
        self.lanes, self.lane_steps, self.capacity_steps = lanes, 0, 0
        self._landscape, self._noise = landscape, noise
        self._queue: list[TrialSpec] = []
        self._live: dict[str, tuple[TrialSpec, int]] = {}

    @property
    def free(self) -> int:
        return max(0, self.lanes - len(self._live) - len(self._queue))

    def admit(self, spec: TrialSpec) -> None:
        self._queue.append(spec)

    def advance(self) -> list[RungReport]:
        while self._queue and len(self._live) < self.lanes:
            spec = self._queue.pop(0)
            self._live[spec.key] = spec, 0
        if not self._live:
            return []
        due = {key: min(r for r in spec.rungs if r > at) for key, (spec, at) in self._live.items()}
        steps = min(due[key] - at for key, (_, at) in self._live.items())
        self.lane_steps += steps * len(self._live)
        self.capacity_steps += steps * self.lanes
        self._live = {key: (spec, at + steps) for key, (spec, at) in self._live.items()}
        return [self._report(*x) for key, x in self._live.items() if x[1] == due[key]]

    def ended(self) -> list[TrialResult]:
        return []

    def release(self, key: str, outcome: Outcome) -> TrialResult:
        spec, at = self._live.pop(key)
        score = self._score(spec, at)
        adapted = AdaptationResult(
            task=HELD_OUT,
            split="test" if spec.stage == "test" else "validation",
            score=score,
            metrics={},
            time=time.time(),
            seconds=0.0,
        )
        adaptations = (adapted,) if outcome == "complete" else ()
        return TrialResult(
            key=key, outcome=outcome, step=at, adaptations=adaptations, time=time.time()
        )

    def _score(self, spec: TrialSpec, at: int) -> Estimate:
        true = self._landscape.score(spec.hyperparameters, spec.task_weights)
        gained = (1 - math.exp(-3 * at / spec.rungs[-1])) / (1 - math.exp(-3))
        noise = np.random.default_rng([spec.seed, at]).normal(0, self._noise)
        return Estimate(START + (true - START) * gained + noise, self._noise, 600)

    def _report(self, spec: TrialSpec, at: int) -> RungReport:
        score = self._score(spec, at)
        per_task: Mapping[str, Estimate] = {HELD_OUT: score}
        return RungReport(
            key=spec.key,
            step=at,
            score=score,
            per_task=per_task,
            metrics={},
            time=time.time(),
            seconds=float(at),
            lane_seconds=float(at),
        )
