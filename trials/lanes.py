"""Trials side by side in one vectorised training step, each lane refilled as soon as it is free."""

import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from fewshot.functional import Params
from fewshot.metrics import estimate, mean_of
from trials import adam, checkpoint
from trials.contract import AdaptationResult, Outcome, RungReport, TrialResult, TrialSpec
from trials.objective import Objective, TaskScores


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
    the queue, or else the last live row moves into it, so that a step is one contiguous slice.
    """

    def __init__(
        self, objective: Objective, *, lanes: int, folder: Path, device: torch.device
    ) -> None:
        if lanes < 1:
            raise ValueError(f"`lanes` must be at least 1, got {lanes}.")
        self.lanes = lanes
        self.lane_steps = 0  # steps of live lanes so far
        self.capacity_steps = 0  # the same, had every lane been live
        self._objective, self._folder, self._device = objective, folder, device
        self._queue: deque[TrialSpec] = deque()
        self._live: list[_Lane] = []
        template = objective.init(0)
        self._params = {
            name: torch.zeros((lanes, *value.shape), dtype=value.dtype, device=device)
            for name, value in template.items()
        }
        self._moments = adam.zeros_like(self._params)
        self._hyper = {name: self._zeros() for name in objective.hyperparameters}
        self._weights = torch.zeros(lanes, len(objective.tasks), device=device)
        self._seeds = torch.zeros(lanes, dtype=torch.int64, device=device)
        self._steps = torch.zeros(lanes, dtype=torch.int64, device=device)
        self._decays = self._zeros()
        self._loss_sum = self._zeros()
        self._gradient = vmap(grad_and_value(objective.loss))

    def _zeros(self) -> Tensor:
        return torch.zeros(self.lanes, device=self._device)

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
        self._train(min(rung - lane.step for rung, lane in zip(rungs, self._live, strict=True)))
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
            self._params[name][place] = value.to(self._device)
            self._moments.first[name][place] = 0
            self._moments.second[name][place] = 0
        for name in self._hyper:
            self._hyper[name][place] = spec.hyperparameters[name]
        for t, task in enumerate(self._objective.tasks):
            self._weights[place, t] = spec.task_weights[task]
        self._decays[place] = spec.hyperparameters.get(adam.WEIGHT_DECAY, 0.0)
        self._seeds[place] = spec.seed
        self._steps[place] = 0
        self._loss_sum[place] = 0
        self._resume(lane, place)

    def _resume(self, lane: _Lane, place: int) -> None:
        own = checkpoint.path_of(self._folder, lane.spec.key)
        if own.exists():
            identity, tensors, reports = checkpoint.load(own)
            if identity == checkpoint.identity(lane.spec):
                self._restore(lane, place, tensors)
                lane.reports, lane.unsaid = list(reports), list(reports)
                lane.seconds, lane.lane_seconds = reports[-1].seconds, reports[-1].lane_seconds
                lane.adaptations = _adaptations(lane.spec, reports[-1])
                return
        if lane.spec.initial is not None:
            path = checkpoint.path_of(self._folder, lane.spec.initial)
            if path.exists():  # else the same seed trains the same model once more
                self._restore(lane, place, checkpoint.load(path)[1])

    def _restore(self, lane: _Lane, place: int, tensors: dict[str, Tensor]) -> None:
        for name, stacked in self._trained().items():
            stacked[place] = tensors[name].to(self._device)
        lane.step = lane.loss_from = int(tensors["step"])

    def _trained(self) -> dict[str, Tensor]:
        """What a checkpoint keeps of each lane; all else is in the spec."""
        return {
            **{f"params.{name}": value for name, value in self._params.items()},
            **{f"first.{name}": value for name, value in self._moments.first.items()},
            **{f"second.{name}": value for name, value in self._moments.second.items()},
            "step": self._steps,
        }

    def _stacked(self) -> list[Tensor]:
        """Every tensor that has a row for each lane."""
        own = [*self._hyper.values(), self._weights, self._decays, self._seeds, self._loss_sum]
        return [*self._trained().values(), *own]

    # ---- training ---------------------------------------------------------------------------

    def _train(self, steps: int) -> None:
        begun, n = time.perf_counter(), len(self._live)
        for _ in range(steps):
            self._step(n)
        seconds = time.perf_counter() - begun
        self.lane_steps += steps * n
        self.capacity_steps += steps * self.lanes
        for lane in self._live:
            lane.step += steps
            lane.seconds += seconds
            lane.lane_seconds += seconds / n

    def _step(self, n: int) -> None:
        params = _rows(self._params, n)
        hyper = _rows(self._hyper, n)
        weights = self._weights[:n]
        batch = self._objective.batch(self._seeds[:n], self._steps[:n], weights)
        grads, losses = self._gradient(params, batch, hyper, weights)
        self._steps[:n] += 1
        self._loss_sum[:n] += losses
        moments = adam.Moments(_rows(self._moments.first, n), _rows(self._moments.second, n))
        rates = hyper[self._objective.learning_rate]
        if any(adam.WEIGHT_DECAY in lane.spec.hyperparameters for lane in self._live):
            adam.decay_(params, rates, self._decays[:n])
        adam.update_(params, grads, moments, self._steps[:n], rates)

    # ---- reporting --------------------------------------------------------------------------

    def _report(self, places: list[int]) -> list[RungReport]:
        reports = []
        for stage in {self._live[place].spec.stage: None for place in places}:
            group = [place for place in places if self._live[place].spec.stage == stage]
            index = torch.tensor(group, device=self._device)
            params = {name: value[index] for name, value in self._params.items()}
            hyper = {name: value[index] for name, value in self._hyper.items()}
            begun = time.perf_counter()
            with torch.no_grad():
                scores = self._objective.score(params, hyper, stage)
                finite = torch.stack(
                    [value.isfinite().view(len(group), -1).all(1) for value in params.values()]
                ).all(0)
            seconds = (time.perf_counter() - begun) / len(group)
            reports += [
                self._say(place, i, scores, bool(finite[i]), seconds)
                for i, place in enumerate(group)
            ]
        return reports

    def _say(
        self, place: int, i: int, scores: list[TaskScores], finite: bool, seconds: float
    ) -> RungReport:
        """The report of the lane at `place`, whose scores are row i; durable when it returns."""
        lane = self._live[place]
        nothing = torch.full((1,), torch.nan)
        per_task = {s.task: estimate(s.skill[i] if finite else nothing) for s in scores}
        metrics = {
            f"{_GROUP[lane.spec.stage]}/{s.task}/{name}": values[i].item()
            for s in scores
            for name, values in s.metrics.items()
        }
        if lane.step > lane.loss_from:
            metrics["train/loss"] = self._loss_sum[place].item() / (lane.step - lane.loss_from)
        self._loss_sum[place] = 0
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
        lane.adaptations = _adaptations(lane.spec, report, seconds / max(1, len(scores)))
        tensors = {name: value[place] for name, value in self._trained().items()}
        checkpoint.save(self._folder, lane.spec, tensors, lane.reports)
        return report


_GROUP = {"search": "val", "final": "val", "test": "test"}


def _due(lane: _Lane) -> int:
    if lane.next_rung is None:
        raise RuntimeError(f"Trial {lane.spec.key!r} has passed its last rung: release it first.")
    return lane.next_rung


def _rows(stacked: Params, n: int) -> Params:
    return {name: value[:n] for name, value in stacked.items()}


def _adaptations(
    spec: TrialSpec, report: RungReport, seconds: float = 0.0
) -> tuple[AdaptationResult, ...]:
    """What the last report says of each held-out task: the model was adapted to it there."""
    group = _GROUP[spec.stage]
    results = []
    for task, score in report.per_task.items():
        prefix = f"{group}/{task}/"
        metrics = {k[len(prefix) :]: v for k, v in report.metrics.items() if k.startswith(prefix)}
        results.append(
            AdaptationResult(
                task=task,
                split="test" if group == "test" else "validation",
                score=score,
                metrics=metrics,
                time=report.time,
                seconds=seconds,
            )
        )
    return tuple(results)
