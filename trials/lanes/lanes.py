"""Trains trials in parallel lanes with one vectorised step; a free lane is refilled immediately."""

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
from trials.lanes.step.capture import Captured
from trials.lanes.step.cuda_graph import replayed
from trials.lanes.step.draws import draws
from trials.lanes.step.gradient import gradient_of


class Lanes:
    """The `TrialProgram` of any objective.

    Live trials are always the first rows of the stacked tensors, so that a step works on one
    contiguous slice. When a trial ends, the last live row moves into its place, and the next
    queued trial starts in the row behind the live ones.

    Gradients and scores are computed in passes of at most `rows_per_pass` rows (by default all
    rows). Passes are made smaller if memory does not suffice.
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
        self.lane_steps = 0
        self.capacity_steps = 0
        self._objective, self._folder, self.device = objective, folder, device
        self._optimizer = optimizer
        self._queue: deque[TrialSpec] = deque()
        self._live: list[Lane] = []
        self._ended: list[TrialResult] = []  # not yet returned by `ended`
        self._interrupted = False
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
        """The number of lanes whose gradients and scores are computed in one pass."""
        return self._passes.rows

    @property
    def free(self) -> int:
        """Number of lanes that no live or queued trial needs."""
        return max(0, self.lanes - len(self._live) - len(self._queue))

    def admit(self, spec: TrialSpec) -> None:
        if not spec.rungs or list(spec.rungs) != sorted(set(spec.rungs)):
            raise ValueError(f"`rungs` must ascend and not be empty, got {spec.rungs}.")
        self._queue.append(spec)

    def advance(self) -> list[RungReport]:
        reports: list[RungReport] = []
        while not (reports or self._ended or self._interrupted):
            while self._queue and len(self._live) < self.lanes:
                self._start(self._queue.popleft())
            reports = [report for lane in self._live for report in lane.unsent]
            for lane in self._live:
                lane.unsent = []
            if not self._live:
                break
            if not (reports or self._ended):
                reports = self._to_next_rung()
        if self._interrupted:
            self._save_progress()
        return reports

    def ended(self) -> list[TrialResult]:
        results, self._ended = self._ended, []
        return results

    def _to_next_rung(self) -> list[RungReport]:
        rungs = [lane.due for lane in self._live]
        steps = min(rung - lane.step for rung, lane in zip(rungs, self._live, strict=True))
        failure = call_or_failure(partial(self.train, steps))
        if isinstance(failure, Failure):
            self._fail(self._passes.failing_rows(len(self._live), self._try_step, failure))
            return []
        if self._interrupted:  # scoring may take long
            return []
        return self._report([i for i, lane in enumerate(self._live) if lane.step == rungs[i]])

    def interrupt(self) -> None:
        self._interrupted = True

    def _save_progress(self) -> None:
        """Write a checkpoint of each live trial that has trained since its last report."""
        for place, lane in enumerate(self._live):
            if lane.step > lane.loss_from:
                state = {name: value[place].cpu() for name, value in self._trained().items()}
                since = lane.since_report(float(self._loss_sum[place]))
                checkpoint.save(self._folder, lane.spec, state | since, lane.reports)

    def parameters(self, key: str) -> Params:
        """A copy of the parameters of the live trial `key`."""
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
        """Remove and return the live lane at `place`; the last live lane moves there."""
        lane, last = self._live[place], len(self._live) - 1
        if place != last:
            for tensor in self._stacked():
                tensor[place] = tensor[last]
            self._live[place] = self._live[last]
        self._live.pop()
        return lane

    def _fail(self, failures: dict[int, Failure]) -> None:
        """End the failed trials, given by their places."""
        for place in sorted(failures, reverse=True):
            lane = self._freed(place)
            self._ended.append(lane.result("failed", self._folder, failures[place]))

    # ---- starting a trial -------------------------------------------------------------------

    def _start(self, spec: TrialSpec) -> None:
        lane, place = Lane(spec), len(self._live)
        init = partial(self._objective.init, spec.seed, spec.hyperparameters)
        params = call_or_failure(init)
        if isinstance(params, Failure):
            self._ended.append(lane.result("failed", self._folder, params))
            return
        self._live.append(lane)
        for name, value in params.items():
            self._params[name][place] = value.to(self.device)
            for slot in self._slots.values():
                slot[name][place] = 0
        for name in self._hyper:
            # A trial without steps has no learning rate. NaN would reveal that one is read.
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
        if saved := checkpoint.load_resumable(self._folder, own, rows, lane.spec):
            tensors, reports = saved
            self._restore(lane, place, tensors)
            self._loss_sum[place] = lane.resume(reports, tensors)
        elif initial and (saved := checkpoint.load_resumable(self._folder, initial, rows)):
            self._restore(lane, place, saved[0])  # else the same seed trains the same model again

    def _restore(self, lane: Lane, place: int, tensors: dict[str, Tensor]) -> None:
        for name, stacked in self._trained().items():
            stacked[place] = tensors[name].to(self.device)
        lane.step = lane.loss_from = int(tensors["step"])

    def _trained(self) -> dict[str, Tensor]:
        """The stacked tensors that a checkpoint keeps; everything else comes from the spec."""
        return {
            **{
                f"{kind}.{name}": value
                for kind, params in {"params": self._params, **self._slots}.items()
                for name, value in params.items()
            },
            "step": self._steps,
        }

    def _stacked(self) -> list[Tensor]:
        """All tensors that have a row for each lane."""
        own = [*self._hyper.values(), self._weights, self._decays, self._seeds, self._loss_sum]
        return [*self._trained().values(), *own]

    # ---- training ---------------------------------------------------------------------------

    def train(self, steps: int) -> None:
        """Take `steps` steps in each live lane. They must not pass a rung.

        If a step raises an exception, the steps before it are kept and that step changes nothing.
        """
        start, n, taken = time.perf_counter(), len(self._live), 0
        # Rounding the number of rows up keeps the number of shapes small, as each shape is captured
        # once. Rows beyond the live ones are trained too, and never read.
        rows = 1 << (n - 1).bit_length()
        if rows > self.rows_per_pass:
            rows = -(-n // self.rows_per_pass) * self.rows_per_pass
        rows = min(self.lanes, rows)
        if rows > n:  # a copy of a live lane; an old row may raise the exception of a failed trial
            for tensor in self._stacked():
                tensor[n:rows] = tensor[:1]
        decays = any(adam.WEIGHT_DECAY in lane.spec.hyperparameters for lane in self._live)
        running = self._seeds[:rows], self._steps[:rows], self._weights[:rows]
        try:
            for drawn in draws(self._draw, *running, steps):
                self._step(rows, decays, drawn)
                taken += 1
                if self._interrupted:
                    break
        finally:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)  # else only the launches would be timed
            self._count(taken, time.perf_counter() - start)

    def _count(self, steps: int, seconds: float) -> None:
        self.lane_steps += steps * len(self._live)
        self.capacity_steps += steps * self.lanes
        for lane in self._live:
            lane.count(steps, seconds, len(self._live))

    def _try_step(self, rows: slice) -> None:
        """Compute the gradients of a step of some lanes without changing any state."""
        running = self._seeds[rows], self._steps[rows], self._weights[rows]
        drawn = next(draws(self._draw, *running, 1))
        params, hyper = _rows(self._params, rows), _rows(self._hyper, rows)
        self._gradient(params, drawn, hyper, self._weights[rows])

    def _take_step(self, n: int, decays: bool, drawn: Any) -> None:
        """Take one step of rows 0..n-1, in place."""
        rows = slice(n)
        # All gradients are computed before any state changes, so a failing pass changes no lane.
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
        """The gradients and losses of some lanes."""
        params, hyper = _rows(self._params, rows), _rows(self._hyper, rows)
        own = tree_map(lambda part: part[rows], drawn)
        return self._gradient(params, own, hyper, self._weights[rows])

    # ---- reporting --------------------------------------------------------------------------

    def _report(self, places: list[int]) -> list[RungReport]:
        reports: list[RungReport] = []
        failures: dict[int, Failure] = {}
        for stage in {self._live[place].spec.stage: None for place in places}:
            group = [place for place in places if self._live[place].spec.stage == stage]
            start = time.perf_counter()
            scored = self._scored(group, stage, failures)
            seconds = (time.perf_counter() - start) / len(group)
            rows = ((scores, i) for scores in scored for i in range(len(scores[0].skill)))
            index = torch.tensor(group, device=self.device)
            # One transfer for all lanes, because a GPU waits for each transfer.
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
        """The scores of the lanes in `group`, pass by pass; empty if all lanes fail.

        Lanes that fail are added to `failures`. The score rows of failed lanes are copies of
        another lane's and must not be used.
        """
        while living := [place for place in group if place not in failures]:
            # The number of rows must not change, because rounding can depend on it.
            rows = [place if place in living else living[0] for place in group]
            run = partial(self._scores, torch.tensor(rows, device=self.device), stage)
            scores = call_or_failure(partial(self._passes.run, len(group), run))
            if not isinstance(scores, Failure):
                return scores
            failing_rows = self._passes.failing_rows(len(group), run, scores)
            failures |= {rows[row]: own for row, own in failing_rows.items()}
        return []

    @torch.no_grad()
    def _scores(self, index: Tensor, stage: Stage, rows: slice) -> list[TaskScores]:
        own = index[rows]
        params = {name: value[own] for name, value in self._params.items()}
        hyper = {name: value[own] for name, value in self._hyper.items()}
        scores = self._objective.score(params, hyper, stage)
        return [tree_map(_on_cpu, scored) for scored in scores]  # whole tensors, not single numbers


def _rows(stacked: Params, rows: slice) -> Params:
    return {name: value[rows] for name, value in stacked.items()}


def _on_cpu(value: Any) -> Any:
    return value.cpu() if isinstance(value, Tensor) else value


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
