"""A whole search that takes a second."""

from pathlib import Path
from typing import Any

from orchestrator.config.loading import parse
from orchestrator.config.sections.config import Config
from orchestrator.tracking.mlflow_runs import OutboxRecorder
from orchestrator.tracking.sending.outbox import Outbox


class Quiet(OutboxRecorder):
    """Writes the outbox, which nobody empties."""

    def drain(self, timeout: float) -> bool:
        return True


def quiet(folder: Path, tracking_uri: str, search_id: str) -> Quiet:
    """In place of `mlflow_sender.recorder`, where MLflow is of no matter."""
    return Quiet(Outbox(folder))


def config(**changes: Any) -> Config:
    return parse(
        {
            "name": "toy",
            "tasks": {
                "train": [{"function": "line"}],
                "validation": [{"function": "sinusoid"}],
                "test": [{"function": "sinusoid"}],
            },
            "model": {"name": "mlp", "hidden": [4]},
            "learner": {"name": "maml", "inner_steps": 1, "adapt_steps": 1},
            "episodes": {"shot": 3, "query": 2, "per_task": 1, "validation": 2, "test": 2},
            "steps": 2,
            "space": {"lr/outer": {"low": 1e-4, "high": 1e-2}, "lr/inner": 0.01, "lr/adapt": 0.01},
            "search": {
                "trials": 2,
                "reference_trials": 1,
                "finalists": 1,
                "seeds": 2,
                "lanes": 1,
                "rungs": [],
            },
        }
        | changes
    )
