"""The state of a live trial that is not in tensors."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from fewshot.errors.parts import Failure
from fewshot.metrics import mean_of
from trials.contract import AdaptationResult, Outcome, RungReport, TrialResult, TrialSpec
from trials.lanes import checkpoint
from trials.lanes.objective import TaskScores
from trials.lanes.reporting import (
    adaptation_results,
    divergence_reason,
    scores_of_lane,
    skills_by_problem,
)


@dataclass(eq=False)
class Lane:
    """A live trial: its spec, step, times and reports. `Lanes` holds its tensors, stacked."""

    spec: TrialSpec
    step: int = 0
    reports: list[RungReport] = field(default_factory=list)
    unsent: list[RungReport] = field(default_factory=list)  # made before a crash, to be repeated
    adaptations: tuple[AdaptationResult, ...] = ()
    seconds: float = 0.0
    lane_seconds: float = 0.0
    loss_from: int = 0  # step from which the loss is summed
    diverged: str = "diverged"  # the reason to give if the last report has no score

    @property
    def due(self) -> int:
        """The step of the next rung; raises RuntimeError if there is none."""
        # A trial that starts from the last checkpoint of another trial skips the rungs below it.
        least = self.reports[-1].step + 1 if self.reports else self.step
        rung = next((rung for rung in self.spec.rungs if rung >= least), None)
        if rung is None:
            message = f"Trial {self.spec.key!r} has passed its last rung: release it first."
            raise RuntimeError(message)
        return rung

    def count(self, steps: int, seconds: float, lanes: int) -> None:
        """Add steps that `lanes` lanes took together in `seconds`."""
        self.step += steps
        self.seconds += seconds
        self.lane_seconds += seconds / lanes

    def since_report(self, loss: float) -> dict[str, Tensor]:
        """What a checkpoint between two rungs also keeps; `loss`: the sum since the last report."""
        values = (loss, self.loss_from, self.seconds, self.lane_seconds)
        return {checkpoint.SINCE_REPORT: torch.tensor(values, dtype=torch.float64)}

    def resume(self, reports: Sequence[RungReport], tensors: Mapping[str, Tensor]) -> float:
        """Continue from a checkpoint; returns the sum of training losses since the last report."""
        self.reports, self.unsent, loss = list(reports), list(reports), 0.0
        if reports:
            self.seconds, self.lane_seconds = reports[-1].seconds, reports[-1].lane_seconds
            self.adaptations = adaptation_results(self.spec, reports[-1])
        if checkpoint.SINCE_REPORT in tensors:
            loss, since, self.seconds, self.lane_seconds = tensors[checkpoint.SINCE_REPORT].tolist()
            self.loss_from = int(since)
        return loss

    def report(
        self,
        tensors: dict[str, Tensor],
        loss: float,
        scores: list[TaskScores],
        i: int,
        seconds: float,
    ) -> RungReport:
        """Make the report of a rung.

        tensors: the tensors of the trial's checkpoint.
        loss: the sum of training losses since the last report.
        scores: the scores of several lanes; row i belongs to this trial.
        seconds: the duration of scoring this trial.
        """
        params = (value for name, value in tensors.items() if name.startswith("params."))
        finite = all(bool(value.isfinite().all()) for value in params)
        per_task, metrics = scores_of_lane(scores, i, self.spec.stage, finite=finite)
        self.diverged = divergence_reason(per_task, self.step, finite=finite)
        if self.step > self.loss_from:
            metrics["train/loss"] = loss / (self.step - self.loss_from)
        self.loss_from = self.step
        report = RungReport(
            key=self.spec.key,
            step=self.step,
            score=mean_of(list(per_task.values())),
            per_task=per_task,
            metrics=metrics,
            time=time.time(),
            seconds=self.seconds,
            lane_seconds=self.lane_seconds,
            by_problem=skills_by_problem(scores, i) if self.step == self.spec.rungs[-1] else {},
        )
        self.reports.append(report)
        self.adaptations = adaptation_results(self.spec, report, seconds / max(1, len(scores)))
        return report

    def result(self, outcome: Outcome, folder: Path, failure: Failure | None = None) -> TrialResult:
        """The result of the ended trial. Its checkpoint in `folder` is deleted unless complete.

        failure: the exception with which it failed, if any.
        """
        path: Path | None = checkpoint.path_of(folder, self.spec.key)
        if outcome != "complete" and path is not None:
            path.unlink(missing_ok=True)
            path = None
        why = self.diverged if failure is None else failure.message
        return TrialResult(
            key=self.spec.key,
            outcome=outcome,
            step=self.step,
            adaptations=self.adaptations if outcome == "complete" else (),
            checkpoint=None if path is None else str(path),
            error=why if outcome == "failed" else None,
            traceback=None if failure is None else failure.traceback,
            time=time.time(),
        )
