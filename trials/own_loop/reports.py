"""The folder of a trial: the reports that it has made, and the files of its function."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fewshot.metrics import Estimate, error_over_tasks, mean_of
from fewshot.tasks.files import write_text
from trials.contract import AdaptationResult, RungReport, TrialSpec

_GROUP = {"search": "val", "final": "val", "test": "test"}


@dataclass(frozen=True)
class StoredReport:
    """The scores at a rung; `time` and `seconds` as in RungReport.

    scores: of the validation tasks. test: of the test tasks; empty except for the last rung of a
    retrained finalist.
    """

    step: int
    scores: Mapping[str, float]
    test: Mapping[str, float]
    time: float
    seconds: float


class TrialFolder:
    """The folder `folder/key` of a trial. After a crash it holds all reports that were sent."""

    def __init__(self, folder: Path, key: str) -> None:
        self._folder = folder / key
        self._reports = self._folder / "reports.json"
        self.log = self._folder / "log.txt"

    @property
    def files(self) -> Path:
        """The folder for the files of the training function."""
        return self._folder / "files"

    def begin(self, spec: TrialSpec) -> list[StoredReport]:
        """Prepare the folder for a trial; returns the reports of its earlier attempts.

        The files of a different trial, or of a trial whose reports can't be read, are removed.
        """
        found = self.read(_identity(spec))
        if found is None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self.write(spec, [])
        self.files.mkdir(parents=True, exist_ok=True)
        return found or []

    def read(self, identity: str | None = None) -> list[StoredReport] | None:
        """The reports; None if they are missing, unreadable or not those of `identity`."""
        try:
            data = json.loads(self._reports.read_text(encoding="utf-8"))
            if identity is not None and data["identity"] != identity:
                return None
            return [StoredReport(**report) for report in data["reports"]]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, spec: TrialSpec, reports: list[StoredReport]) -> None:
        """Write all reports of the trial atomically."""
        data = {"identity": _identity(spec), "reports": [asdict(report) for report in reports]}
        write_text(self._reports, json.dumps(data, indent=1))


def _identity(spec: TrialSpec) -> str:
    """A hash of what decides the reports of a trial. The folder and the timeout may change."""
    assert spec.recipe.function is not None, "the recipe is that of an own loop"
    tasks = {split: [t.name for t in tasks] for split, tasks in spec.recipe.tasks.items()}
    data: dict[str, Any] = {
        "function": spec.recipe.function.name,
        "tasks": tasks,
        "seed": spec.seed,
        "hyperparameters": {**spec.choices, **spec.hyperparameters},
        "task_weights": dict(spec.task_weights),
        "rungs": list(spec.rungs),
    }
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:12]


def report_of(spec: TrialSpec, stored: StoredReport) -> RungReport:
    """The report of a trial; in stage `test` it has the scores of the test tasks."""
    scores = stored.test if spec.stage == "test" else stored.scores
    per_task = {task: Estimate(score, float("nan"), 1) for task, score in scores.items()}
    metrics = {f"{_GROUP[spec.stage]}/{task}/score": score for task, score in scores.items()}
    if len(scores) > 1:
        metrics["score_se_tasks"] = error_over_tasks(list(per_task.values()))
    return RungReport(
        key=spec.key,
        step=stored.step,
        score=mean_of(list(per_task.values())),
        per_task=per_task,
        metrics=metrics,
        time=stored.time,
        seconds=stored.seconds,
        lane_seconds=stored.seconds,
    )


def adaptations_of(spec: TrialSpec, report: RungReport) -> tuple[AdaptationResult, ...]:
    """The result of a complete trial on each task, from its last report."""
    return tuple(
        AdaptationResult(
            task=task,
            split="test" if spec.stage == "test" else "validation",
            score=score,
            metrics={"score": score.mean},
            time=report.time,
            seconds=0.0,
        )
        for task, score in report.per_task.items()
    )
