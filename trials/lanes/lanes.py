"""Trials side by side in one vectorised training step, each lane refilled as soon as it is free."""

import math
import time
from collections import deque
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from fewshot.errors.parts import Failure
from fewshot.functional import Params
from trials.contract import Outcome, RungReport, Stage, TrialResult, TrialSpec
from trials.lanes import checkpoint
from trials.lanes.lane import Lane
from trials.lanes.objective import Objective, TaskScores
from trials.lanes.optimizers import adam
from trials.lanes.optimizers.base import Optimizer, Slots
from trials.lanes.passes import Passes, call_or_failure
from trials.lanes.reporting import adaptation_results
from trials.lanes.step.capture import Captured
from trials.lanes.step.cuda_graph import replayed
from trials.lanes.step.draws import draws
from trials.lanes.step.gradient import gradient_of


class Lanes:
    """The `TrialProgram` of any objective.

    Live trials are always the first rows of the stacked tensors: a released row is refilled from
    the queue, or else the last live row moves into it, so that a step is one contiguous slice. Its
    gradients and scores are found in passes of at most `rows_per_pass` rows, by default all, and of
    fewer where memory does not suffice.
    """

    def __init__(
        self,
        objective: Objective,
        *,
        lanes: int,
        folder: Path,
        device: torch.device,
        optimizer: Optimizer = adam,
        rows_per_pass: int | None = None,
    ) -> None:
        if lanes < 1:
            raise ValueError(f"`lanes` must be at least 1, got {lanes}.")
        self.lanes, self._passes = lanes, Passes(rows_per_pass or lanes)
        self.lane_steps = 0  # steps of live lanes so far
        self.capacity_steps = 0  # the same, had every lane been live
        self._objective, self._folder, self.device = objective, folder, device
        self._optimizer = optimizer
        self._queue: deque[TrialSpec] = deque()
        self._live: list[Lane] = []
        self._ended: list[TrialResult] = []  # and not asked for yet
        template = objective.init(0)
        self._params = {
            name: torch.zeros((lanes, *value.shape), dtype=value.dtype, device=device)
            for name, value in template.items()
        }
        self._slots = optimizer.zeros_like(self._params)
        self._hyper = {name: self._zeros() for name in objective.hyperparameters}
        self._weights = torch.zeros(lanes, len(objective.tasks), device=device)
        self._seeds = torch.zeros(lanes, dtype=torch.int64, device=device)
        self._steps = torch.zeros(lanes, dtype=torch.int64, device=device)
        self._decays = self._zeros()
        self._loss_sum = self._zeros()
        self._gradient = gradient_of(objective)
        self._draw = replayed(Captured(objective.draw), device)
        self._step = replayed(self._take_step, device)

    def _zeros(self) -> Tensor:
        return torch.zeros(self.lanes, device=self.device)

    @property
    def rows_per_pass(self) -> int:
        """Lanes of which gradients and scores are found at once."""
        return self._passes.rows

    @property
    def free(self) -> int:
        """Lanes that neither hold a trial nor will take one from the queue."""
        return max(0, self.lanes - len(self._live) - len(self._queue))

    def admit(self, spec: TrialSpec) -> None:
        if not spec.rungs or list(spec.rungs) != sorted(set(spec.rungs)):
            raise ValueError(f"`rungs` must ascend and not be empty, got {spec.rungs}.")
        self._queue.append(spec)

    def advance(self) -> list[RungReport]:
        reports: list[RungReport] = []
        while not (reports or self._ended):
            while self._queue and len(self._live) < self.lanes:
                self._start(self._queue.popleft())
            reports = [report for lane in self._live for report in lane.unsent]
            for lane in self._live:
                lane.unsent = []
            if not self._live:
                break
            if not (reports or self._ended):
                reports = self._to_next_rung()
        return reports

    def ended(self) -> list[TrialResult]:
        found, self._ended = self._ended, []
        return found

    def _to_next_rung(self) -> list[RungReport]:
        rungs = [lane.due for lane in self._live]
        steps = min(rung - lane.step for rung, lane in zip(rungs, self._live, strict=True))
        failure = call_or_failure(partial(self.train, steps))
        if isinstance(failure, Failure):
            self._fail(self._passes.failing_rows(len(self._live), self._try_step, failure))
            return []
        return self._report([i for i, lane in enumerate(self._live) if lane.step == rungs[i]])

    def parameters(self, key: str) -> Params:
        """A copy of a live trial's parameters."""
        place = next(i for i, lane in enumerate(self._live) if lane.spec.key == key)
        return {name: value[place].clone() for name, value in self._params.items()}

    def release(self, key: str, outcome: Outcome) -> TrialResult:
        for spec in self._queue:
            if spec.key == key:
                self._queue.remove(spec)
                return Lane(spec).result(outcome, self._folder)
        place = next((i for i, lane in enumerate(self._live) if lane.spec.key == key), None)
        if place is None:
            raise ValueError(f"No live trial {key!r}.")
        return self._freed(place).result(outcome, self._folder)

    def _freed(self, place: int) -> Lane:
        """The lane at `place`, which from now on is not live; the last one takes its place."""
        lane, last = self._live[place], len(self._live) - 1
        if place != last:
            for tensor in self._stacked():
                tensor[place] = tensor[last]
            self._live[place] = self._live[last]
        self._live.pop()
        return lane

    def _fail(self, failures: dict[int, Failure]) -> None:
        """End the trials at some places."""
        for place in sorted(failures, reverse=True):
            lane = self._freed(place)
            self._ended.append(lane.result("failed", self._folder, failures[place]))

    # ---- a trial begins ---------------------------------------------------------------------

    def _start(self, spec: TrialSpec) -> None:
        lane, place = Lane(spec), len(self._live)
        begun = call_or_failure(partial(self._objective.init, spec.seed))
        if isinstance(begun, Failure):
            self._ended.append(lane.result("failed", self._folder, begun))
            return
        self._live.append(lane)
        for name, value in begun.items():
            self._params[name][place] = value.to(self.device)
            for slot in self._slots.values():
                slot[name][place] = 0
        for name in self._hyper:
            # A trial that takes no step needs no rate. If one is read all the same, NaN shows it.
            self._hyper[name][place] = spec.hyperparameters.get(name, math.nan)
        for t, task in enumerate(self._objective.tasks):
            self._weights[place, t] = spec.task_weights[task]
        self._decays[place] = spec.hyperparameters.get(adam.WEIGHT_DECAY, 0.0)
        self._seeds[place] = spec.seed
        self._steps[place] = 0
        self._loss_sum[place] = 0
        self._resume(lane, place)

    def _resume(self, lane: Lane, place: int) -> None:
        rows = {name: value[place] for name, value in self._trained().items()}
        own, initial = lane.spec.key, lane.spec.initial
        if found := checkpoint.usable(self._folder, own, rows, lane.spec):
            tensors, reports = found
            self._restore(lane, place, tensors)
            lane.reports, lane.unsent = list(reports), list(reports)
            lane.seconds, lane.lane_seconds = reports[-1].seconds, reports[-1].lane_seconds
            lane.adaptations = adaptation_results(lane.spec, reports[-1])
        elif initial and (found := checkpoint.usable(self._folder, initial, rows)):
            self._restore(lane, place, found[0])  # else the same seed trains the same model again

    def _restore(self, lane: Lane, place: int, tensors: dict[str, Tensor]) -> None:
        for name, stacked in self._trained().items():
            stacked[place] = tensors[name].to(self.device)
        lane.step = lane.loss_from = int(tensors["step"])

    def _trained(self) -> dict[str, Tensor]:
        """What a checkpoint keeps of each lane; all else is in the spec."""
        return {
            **{
                f"{kind}.{name}": value
                for kind, params in {"params": self._params, **self._slots}.items()
                for name, value in params.items()
            },
            "step": self._steps,
        }

    def _stacked(self) -> list[Tensor]:
        """Every tensor that has a row for each lane."""
        own = [*self._hyper.values(), self._weights, self._decays, self._seeds, self._loss_sum]
        return [*self._trained().values(), *own]

    # ---- training ---------------------------------------------------------------------------

    def train(self, steps: int) -> None:
        """Take some steps in each live lane, none of which may pass a rung.

        If one raises, those before it are taken, and it is as if it had not begun.
        """
        begun, n, taken = time.perf_counter(), len(self._live), 0
        # Few shapes, each captured once: what rows beyond the live ones learn nobody asks for.
        rows = 1 << (n - 1).bit_length()
        if rows > self.rows_per_pass:
            rows = -(-n // self.rows_per_pass) * self.rows_per_pass
        rows = min(self.lanes, rows)
        if rows > n:  # else they might raise what a trial raised that failed
            for tensor in self._stacked():
                tensor[n:rows] = tensor[:1]
        decays = any(adam.WEIGHT_DECAY in lane.spec.hyperparameters for lane in self._live)
        running = self._seeds[:rows], self._steps[:rows], self._weights[:rows]
        try:
            for drawn in draws(self._draw, *running, steps):
                self._step(rows, decays, drawn)
                taken += 1
        finally:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)  # else only the launches would be timed
            self._count(taken, time.perf_counter() - begun)

    def _count(self, steps: int, seconds: float) -> None:
        self.lane_steps += steps * len(self._live)
        self.capacity_steps += steps * self.lanes
        for lane in self._live:
            lane.count(steps, seconds, len(self._live))

    def _try_step(self, rows: slice) -> None:
        """Find the gradients of a step of some lanes, and change nothing."""
        running = self._seeds[rows], self._steps[rows], self._weights[rows]
        drawn = next(draws(self._draw, *running, 1))
        params, hyper = _rows(self._params, rows), _rows(self._hyper, rows)
        self._gradient(params, drawn, hyper, self._weights[rows])

    def _take_step(self, n: int, decays: bool, drawn: Any) -> None:
        """Of rows 0..n-1, in place."""
        rows = slice(n)
        # All gradients come before any change: a pass that fails leaves every lane as it was.
        passes = self._passes.run(n, partial(self._gradients, drawn))
        grads = {name: _joined([part[name] for part, _ in passes]) for name in self._params}
        self._steps[rows] += 1
        self._loss_sum[rows] += _joined([losses for _, losses in passes])
        slots: Slots = {kind: _rows(slot, rows) for kind, slot in self._slots.items()}
        rates = self._hyper[self._objective.learning_rate][rows]
        params = _rows(self._params, rows)
        if decays:
            adam.decay_(params, rates, self._decays[rows])
        self._optimizer.update_(params, grads, slots, self._steps[rows], rates)

    def _gradients(self, drawn: Any, rows: slice) -> tuple[Params, Tensor]:
        """Of some lanes, and their losses."""
        params, hyper = _rows(self._params, rows), _rows(self._hyper, rows)
        own = tree_map(lambda part: part[rows], drawn)
        return self._gradient(params, own, hyper, self._weights[rows])

    # ---- reporting --------------------------------------------------------------------------

    def _report(self, places: list[int]) -> list[RungReport]:
        reports: list[RungReport] = []
        failures: dict[int, Failure] = {}
        for stage in {self._live[place].spec.stage: None for place in places}:
            group = [place for place in places if self._live[place].spec.stage == stage]
            begun = time.perf_counter()
            scored = self._scored(group, stage, failures)
            seconds = (time.perf_counter() - begun) / len(group)
            rows = ((scores, i) for scores in scored for i in range(len(scores[0].skill)))
            index = torch.tensor(group, device=self.device)
            # At once, and not lane by lane: a GPU waits for each piece.
            state = {name: value[index].cpu() for name, value in self._trained().items()}
            losses = self._loss_sum[index].tolist()
            self._loss_sum[index] = 0
            for j, (place, (scores, i)) in enumerate(zip(group, rows, strict=bool(scored))):
                if place not in failures:
                    own = {name: value[j] for name, value in state.items()}
                    lane = self._live[place]
                    reports.append(lane.report(own, losses[j], scores, i, seconds))
                    checkpoint.save(self._folder, lane.spec, own, lane.reports)  # durable from here
        self._fail(failures)
        return reports

    def _scored(
        self, group: list[int], stage: Stage, failures: dict[int, Failure]
    ) -> list[list[TaskScores]]:
        """Scores of the lanes at some places, pass by pass; none if all of them fail.

        Adds to `failures` those that do; their scores are another's.
        """
        while living := [place for place in group if place not in failures]:
            # As many rows as before: in others the same sums may be rounded otherwise.
            rows = [place if place in living else living[0] for place in group]
            run = partial(self._scores, torch.tensor(rows, device=self.device), stage)
            found = call_or_failure(partial(self._passes.run, len(group), run))
            if not isinstance(found, Failure):
                return found
            failing_rows = self._passes.failing_rows(len(group), run, found)
            failures |= {rows[row]: own for row, own in failing_rows.items()}
        return []

    @torch.no_grad()
    def _scores(self, index: Tensor, stage: Stage, rows: slice) -> list[TaskScores]:
        own = index[rows]
        params = {name: value[own] for name, value in self._params.items()}
        hyper = {name: value[own] for name, value in self._hyper.items()}
        scores = self._objective.score(params, hyper, stage)
        return [tree_map(_on_cpu, scored) for scored in scores]  # and not number by number


def _rows(stacked: Params, rows: slice) -> Params:
    return {name: value[rows] for name, value in stacked.items()}


def _on_cpu(value: Any) -> Any:
    return value.cpu() if isinstance(value, Tensor) else value


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
