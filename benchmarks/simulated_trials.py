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

    tasks: the number of held-out tasks of each split. spread: how differently they respond to the
    weights. The gain of task j over uniform weights differs from that of the landscape by a linear
    function of the weights, whose coefficients have this standard deviation. The noise of a seed is
    shared by its tasks, and each task has as much noise of its own.
    """

    def __init__(
        self,
        landscape: Landscape,
        noise: float,
        lanes: int,
        *,
        tasks: int = 1,
        spread: float = 0.0,
        seed: int = 0,
    ) -> None:
        self._tasks, self._spread, self._seed = tasks, spread, seed
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
        adapted = tuple(
            AdaptationResult(
                task=task,
                split="test" if spec.stage == "test" else "validation",
                score=score,
                metrics={},
                time=time.time(),
                seconds=0.0,
            )
            for task, score in self._scores(spec, at).items()
        )
        adaptations = adapted if outcome == "complete" else ()
        return TrialResult(
            key=key, outcome=outcome, step=at, adaptations=adaptations, time=time.time()
        )

    def _scores(self, spec: TrialSpec, at: int) -> Mapping[str, Estimate]:
        true = self._landscape.score(spec.hyperparameters, spec.task_weights)
        gained = (1 - math.exp(-3 * at / spec.rungs[-1])) / (1 - math.exp(-3))
        # The tests of a retraining have other tasks, whose noise is new.
        rng = np.random.default_rng([spec.seed, at, spec.stage == "test"])
        seed_noise, n = rng.normal(0, self._noise), self._tasks
        own = rng.normal(0, self._noise, n) if n > 1 else np.zeros(1)
        scores = START + (true + self._deviations(spec) - START) * gained + seed_noise + own
        names = (f"{HELD_OUT}_{j}" if n > 1 else HELD_OUT for j in range(n))
        return {
            name: Estimate(float(score), self._noise, 600)
            for name, score in zip(names, scores, strict=True)
        }

    def _deviations(self, spec: TrialSpec) -> np.ndarray:
        """What each held-out task adds to the true score, (tasks,)."""
        weights = np.array(list(spec.task_weights.values()))
        rng = np.random.default_rng([self._seed, spec.stage == "test"])
        slopes = rng.normal(0, self._spread, (self._tasks, len(weights)))
        return np.asarray(slopes @ (weights - 1 / len(weights)))

    def _report(self, spec: TrialSpec, at: int) -> RungReport:
        per_task = self._scores(spec, at)
        mean = sum(score.mean for score in per_task.values()) / len(per_task)
        return RungReport(
            key=spec.key,
            step=at,
            score=Estimate(mean, self._noise, 600),
            per_task=per_task,
            metrics={},
            time=time.time(),
            seconds=float(at),
            lane_seconds=float(at),
        )
