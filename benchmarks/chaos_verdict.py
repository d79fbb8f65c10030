"""What a search of `chaos.py` has left: what is lost, doubled, or still runs."""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaos_search import NAME

from orchestrator.record.home import Home
from orchestrator.record.search_records import SearchRecords, read_records
from orchestrator.record.studies.study import StudiedTrial
from orchestrator.tracking.mlflow_client import connect
from orchestrator.tracking.mlflow_runs import STATUS
from orchestrator.tracking.sending.run_writer import quoted, runs_where
from trials.lanes import checkpoint


@dataclass
class Verdict:
    """Each finding is one line."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    running: list[str] = field(default_factory=list)  # runs in MLflow
    trials: int = 0
    reports: int = 0
    failed: list[str] = field(default_factory=list)  # trials, each with its reason
    recomputed: int = 0  # steps


def verdict(home: Home, tracking_uri: str, trials: int) -> Verdict:
    """Compare the study, MLflow and the checkpoints of the search, which has ended."""
    found = Verdict()
    client = connect(tracking_uri)
    runs: dict[str, list[Any]] = defaultdict(list)
    for run in runs_where(client, f"tags.`fewtune.search` = {quoted(NAME)}"):
        runs[run.data.tags["fewtune.key"]].append(run)
    for key, same in runs.items():
        found.doubled += [f"run {key}"] * (len(same) - 1)
        found.running += [f"run {key}" for run in same if run.info.status == "RUNNING"]
    records = read_records(NAME, home)
    if records is None:
        found.lost.append("the studies")
        return found
    expected = {NAME}
    found.lost += ["a trial of the study"] * max(0, trials - len(records.search))
    found.doubled += ["a trial of the study"] * max(0, len(records.search) - trials)
    for stage in ("search", "final", "test"):
        for trial in getattr(records, stage).trials():
            key = f"{stage}-{trial.number:04d}"
            expected |= {f"{NAME}/{key}"} | _adaptations(key, trial)
            found.trials += 1
            found.reports += len(trial.reports)
            if trial.state == "failed":
                found.failed.append(f"{key}: {trial.notes.get('reason')}")
            _compare_files(found, home.checkpoints(NAME) / key, key, trial)
            for run in runs.get(f"{NAME}/{key}", [])[:1]:
                history = client.get_metric_history(run.info.run_id, "score")
                compare_run(found, key, trial, run.info.status, history)
    found.recomputed = _recomputed(home.checkpoints(NAME), records)
    found.lost += [f"run {key}: not in MLflow" for key in sorted(expected - runs.keys())]
    found.lost += [f"run {key}: not in the study" for key in sorted(runs.keys() - expected)]
    return found


def _adaptations(key: str, trial: StudiedTrial) -> set[str]:
    split = "test" if key.startswith("test") else "validation"
    return {f"{NAME}/{key}/{split}/{task}" for task in trial.notes.get("tasks", {})}


def compare_run(
    found: Verdict, key: str, trial: StudiedTrial, status: str, history: list[Any]
) -> None:
    """Compare a trial in the study with the status and the scores of its run in MLflow."""
    if trial.state == "running" or status != STATUS[trial.state]:
        found.lost.append(f"end of {key}: {trial.state} in the study, {status} in MLflow")
    points = Counter(point.step for point in history)
    found.doubled += [f"point {step} of {key}" for step, n in points.items() if n > 1]
    found.lost += _differences(f"point of {key}", trial.reports, {p.step: p.value for p in history})


def _compare_files(found: Verdict, folder: Path, key: str, trial: StudiedTrial) -> None:
    """Compare with what the worker has stored; only a complete trial must have a checkpoint."""
    if trial.notes.get("role") == "untrained" or key.startswith("test"):
        return
    try:
        if folder.is_dir():
            stored = json.loads((folder / "reports.json").read_text())["reports"]
            steps = [report["step"] for report in stored]
        else:
            steps = [
                report.step for report in checkpoint.load(checkpoint.path_of(folder.parent, key))[2]
            ]
    except (OSError, ValueError, checkpoint.Unreadable) as error:
        if trial.state == "complete":
            found.lost.append(f"checkpoint of {key}: {error}")
        return
    if sorted(steps) != sorted(trial.reports):
        found.lost.append(f"reports of {key}: {steps} on disk, {sorted(trial.reports)} in study")


def _recomputed(checkpoints: Path, records: SearchRecords) -> int:
    """Of the steps that were made, those that were made before.

    A training function of one's own notes its steps. Lanes are counted at each turn of a worker:
    the steps of a turn that did not arrive are not known.
    """
    noted = [path.read_text().split() for path in checkpoints.glob("*/files/steps.txt")]
    if noted:
        return sum(len(each) - len(set(each)) for each in noted)
    trained = [*records.search.trials(), *records.final.trials()]
    needed = sum(max(t.reports, default=0) for t in trained if t.notes.get("role") != "untrained")
    return max(0, int(records.search.notes.get("steps", (0, 0))[0]) - needed)


def _differences(what: str, study: Mapping[int, float], other: Mapping[int, float]) -> list[str]:
    return [
        f"{what} at {step}: {study.get(step)} in the study, {other.get(step)} elsewhere"
        for step in sorted(study.keys() | other.keys())
        if study.get(step) != other.get(step)
    ]
