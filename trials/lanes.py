"""Trials side by side in one vectorised training step, each lane refilled as soon as it is free."""

import logging
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from fewshot.functional import Params
from fewshot.metrics import mean_of
from trials import adam, checkpoint
from trials.capture import Captured
from trials.contract import AdaptationResult, Outcome, RungReport, Stage, TrialResult, TrialSpec
from trials.draws import draws
from trials.gradient import gradient_of
from trials.graph import replayed
from trials.memory import is_shortage
from trials.objective import Objective, TaskScores
from trials.optimizer import Optimizer, Slots
from trials.reporting import adaptations_of, row_of

log = logging.getLogger(__name__)

Found = TypeVar("Found")


@dataclass(eq=False)
class _Lane:
    """The host's side of a live trial, whose tensors are the row of the stack at its place."""

    spec: TrialSpec
    step: int = 0
    reports: list[RungReport] = field(default_factory=list)
    unsaid: list[RungReport] = field(default_factory=list)  # made before a crash, to be repeated
    adaptations: tuple[AdaptationResult, ...] = ()
    seconds: float = 0.0
    lane_seconds: float = 0.0
    loss_from: int = 0  # step since which the loss is summed up

    @property
    def next_rung(self) -> int | None:
        # One that starts from another's last rung has none to report below it.
        due = self.reports[-1].step + 1 if self.reports else self.step
        return next((rung for rung in self.spec.rungs if rung >= due), None)


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
        self.lanes, self.rows_per_pass = lanes, rows_per_pass or lanes
        self.lane_steps = 0  # steps of live lanes so far
        self.capacity_steps = 0  # the same, had every lane been live
        self._objective, self._folder, self.device = objective, folder, device
        self._optimizer = optimizer
        self._queue: deque[TrialSpec] = deque()
        self._live: list[_Lane] = []
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
    def free(self) -> int:
        """Lanes that neither hold a trial nor will take one from the queue."""
        return max(0, self.lanes - len(self._live) - len(self._queue))

    def admit(self, spec: TrialSpec) -> None:
        if not spec.rungs or list(spec.rungs) != sorted(set(spec.rungs)):
            raise ValueError(f"`rungs` must ascend and not be empty, got {spec.rungs}.")
        self._queue.append(spec)

    def advance(self) -> list[RungReport]:
        while self._queue and len(self._live) < self.lanes:
            self._start(self._queue.popleft())
        unsaid = [report for lane in self._live for report in lane.unsaid]
        if unsaid:
            for lane in self._live:
                lane.unsaid = []
            return unsaid
        if not self._live:
            return []
        rungs = [_due(lane) for lane in self._live]
        self.train(min(rung - lane.step for rung, lane in zip(rungs, self._live, strict=True)))
        return self._report([i for i, lane in enumerate(self._live) if lane.step == rungs[i]])

    def parameters(self, key: str) -> Params:
        """A copy of a live trial's parameters."""
        place = next(i for i, lane in enumerate(self._live) if lane.spec.key == key)
        return {name: value[place].clone() for name, value in self._params.items()}

    def release(self, key: str, outcome: Outcome) -> TrialResult:
        for spec in self._queue:
            if spec.key == key:
                self._queue.remove(spec)
                return self._result(_Lane(spec), outcome)
        place = next((i for i, lane in enumerate(self._live) if lane.spec.key == key), None)
        if place is None:
            raise ValueError(f"No live trial {key!r}.")
        lane = self._live[place]
        last = len(self._live) - 1
        if place != last:
            for tensor in self._stacked():
                tensor[place] = tensor[last]
            self._live[place] = self._live[last]
        self._live.pop()
        return self._result(lane, outcome)

    def _result(self, lane: _Lane, outcome: Outcome) -> TrialResult:
        path: Path | None = checkpoint.path_of(self._folder, lane.spec.key)
        if outcome != "complete" and path is not None:
            path.unlink(missing_ok=True)
            path = None
        return TrialResult(
            key=lane.spec.key,
            outcome=outcome,
            step=lane.step,
            adaptations=lane.adaptations if outcome == "complete" else (),
            checkpoint=None if path is None else str(path),
            error="diverged: parameters are not finite" if outcome == "failed" else None,
            time=time.time(),
        )

    # ---- a trial begins ---------------------------------------------------------------------

    def _start(self, spec: TrialSpec) -> None:
        lane, place = _Lane(spec), len(self._live)
        self._live.append(lane)
        for name, value in self._objective.init(spec.seed).items():
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

    def _resume(self, lane: _Lane, place: int) -> None:
        rows = {name: value[place] for name, value in self._trained().items()}
        own, initial = lane.spec.key, lane.spec.initial
        if found := checkpoint.usable(self._folder, own, rows, lane.spec):
            tensors, reports = found
            self._restore(lane, place, tensors)
            lane.reports, lane.unsaid = list(reports), list(reports)
            lane.seconds, lane.lane_seconds = reports[-1].seconds, reports[-1].lane_seconds
            lane.adaptations = adaptations_of(lane.spec, reports[-1])
        elif initial and (found := checkpoint.usable(self._folder, initial, rows)):
            self._restore(lane, place, found[0])  # else the same seed trains the same model again

    def _restore(self, lane: _Lane, place: int, tensors: dict[str, Tensor]) -> None:
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
        """Take some steps in each live lane, none of which may pass a rung."""
        begun, n = time.perf_counter(), len(self._live)
        # Few shapes, each captured once: what rows beyond the live ones learn nobody asks for.
        rows = 1 << (n - 1).bit_length()
        if rows > self.rows_per_pass:
            rows = -(-n // self.rows_per_pass) * self.rows_per_pass
        rows = min(self.lanes, rows)
        decays = any(adam.WEIGHT_DECAY in lane.spec.hyperparameters for lane in self._live)
        running = self._seeds[:rows], self._steps[:rows], self._weights[:rows]
        for drawn in draws(self._draw, *running, steps):
            self._step(rows, decays, drawn)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # else only the launches would be timed
        seconds = time.perf_counter() - begun
        self.lane_steps += steps * n
        self.capacity_steps += steps * self.lanes
        for lane in self._live:
            lane.step += steps
            lane.seconds += seconds
            lane.lane_seconds += seconds / n

    def _take_step(self, n: int, decays: bool, drawn: Any) -> None:
        """Of rows 0..n-1, in place."""
        rows = slice(n)
        # All gradients come before any change: a pass that fails leaves every lane as it was.
        passes = self._in_passes(n, partial(self._gradients, drawn))
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

    def _in_passes(self, n: int, run: Callable[[slice], Found]) -> list[Found]:
        """What `run` finds for rows 0..n-1, in passes that are halved until memory suffices."""
        while True:
            size = min(n, self.rows_per_pass)
            try:
                return [run(slice(at, min(at + size, n))) for at in range(0, n, size)]
            except RuntimeError as error:
                if size == 1 or not is_shortage(error):
                    raise
            # Not in the handler, where the error still holds the tensors of the failed pass.
            self.rows_per_pass = size // 2
            log.warning("out of memory lanes=%d rows_per_pass=%d", n, self.rows_per_pass)

    # ---- reporting --------------------------------------------------------------------------

    def _report(self, places: list[int]) -> list[RungReport]:
        reports = []
        for stage in {self._live[place].spec.stage: None for place in places}:
            group = [place for place in places if self._live[place].spec.stage == stage]
            index = torch.tensor(group, device=self.device)
            begun = time.perf_counter()
            scored = self._in_passes(len(group), partial(self._scores, index, stage))
            seconds = (time.perf_counter() - begun) / len(group)
            rows = ((scores, i) for scores in scored for i in range(len(scores[0].skill)))
            # At once, and not lane by lane: a GPU waits for each piece.
            state = {name: value[index].cpu() for name, value in self._trained().items()}
            losses = self._loss_sum[index].tolist()
            self._loss_sum[index] = 0
            for j, (place, (scores, i)) in enumerate(zip(group, rows, strict=True)):
                own = {name: value[j] for name, value in state.items()}
                reports.append(self._say(self._live[place], own, losses[j], scores, i, seconds))
        return reports

    @torch.no_grad()
    def _scores(self, index: Tensor, stage: Stage, rows: slice) -> list[TaskScores]:
        own = index[rows]
        params = {name: value[own] for name, value in self._params.items()}
        hyper = {name: value[own] for name, value in self._hyper.items()}
        scores = self._objective.score(params, hyper, stage)
        return [tree_map(_on_cpu, scored) for scored in scores]  # and not number by number

    def _say(
        self,
        lane: _Lane,
        tensors: dict[str, Tensor],
        loss: float,
        scores: list[TaskScores],
        i: int,
        seconds: float,
    ) -> RungReport:
        """The report of a lane whose scores are row i; durable when it returns."""
        params = (value for name, value in tensors.items() if name.startswith("params."))
        finite = all(bool(value.isfinite().all()) for value in params)
        per_task, metrics = row_of(scores, i, lane.spec.stage, finite=finite)
        if lane.step > lane.loss_from:
            metrics["train/loss"] = loss / (lane.step - lane.loss_from)
        lane.loss_from = lane.step
        report = RungReport(
            key=lane.spec.key,
            step=lane.step,
            score=mean_of(list(per_task.values())),
            per_task=per_task,
            metrics=metrics,
            time=time.time(),
            seconds=lane.seconds,
            lane_seconds=lane.lane_seconds,
        )
        lane.reports.append(report)
        lane.adaptations = adaptations_of(lane.spec, report, seconds / max(1, len(scores)))
        checkpoint.save(self._folder, lane.spec, tensors, lane.reports)
        return report


def _due(lane: _Lane) -> int:
    if lane.next_rung is None:
        raise RuntimeError(f"Trial {lane.spec.key!r} has passed its last rung: release it first.")
    return lane.next_rung


def _rows(stacked: Params, rows: slice) -> Params:
    return {name: value[rows] for name, value in stacked.items()}


def _on_cpu(value: Any) -> Any:
    return value.cpu() if isinstance(value, Tensor) else value


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
