"""Searches over a user's own training loop: the config, and how the loop of a trial fails."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.paths import ROOT
from trials.own_loop import Trial

MODULE = "tests.orchestrator.own_loops"


def data(function: str = "train", **changes: Any) -> dict[str, Any]:
    """A config of ten trials that takes seconds."""
    return {
        "name": "own",
        "program": f"{MODULE}:{function}",
        "path": str(ROOT),
        "tasks": {"train": ["clean", "noise"], "validation": ["a", "b", "c"]},
        "steps": 4,
        "space": {"rate": {"low": 1e-3, "high": 1.0, "log": True}, "depth": 3},
        "search": {"trials": 10, "reference_trials": 3, "finalists": 1, "seeds": 3, "rungs": []},
    } | changes


def train(trial: Trial) -> Iterator[dict[str, float]]:
    """The best rate is .03; weight on `noise` harms."""
    for step in range(trial.last_step + 1, trial.steps + 1):
        with (trial.folder / "steps.txt").open("a") as file:
            file.write(f"{step}\n")
        if step in trial.rungs:
            (trial.folder / "model.txt").write_text(str(trial.hyperparameters["rate"]))
            score = 10 * trial.weights["clean"] - abs(trial.hyperparameters["rate"] - 0.03) + step
            yield {task: score + i + trial.seed % 3 / 100 for i, task in enumerate("abc")}


def with_test(trial: Trial) -> Iterator[dict[str, float]]:
    for scores in train(trial):
        yield scores | {"d": 100 + scores["a"]}


def three_fail(trial: Trial) -> Iterator[dict[str, float]]:
    """Of the searched trials one raises, one hangs and one exits."""
    if trial.stage == "search" and trial.number == 2:
        raise RuntimeError("out of luck")
    if trial.stage == "search" and trial.number == 5:
        time.sleep(600)
    if trial.stage == "search" and trial.number == 7:
        os._exit(3)
    yield from train(trial)


def slow(trial: Trial) -> Iterator[dict[str, float]]:
    """Waits after each rung; leaves its process id."""
    (trial.folder / "pid").write_text(str(os.getpid()))
    for scores in train(trial):
        time.sleep(0.3)
        yield scores


def rests(trial: Trial) -> Iterator[dict[str, float]]:
    """Takes twelve seconds before its first report; leaves its process id."""
    (trial.folder / "pid").write_text(str(os.getpid()))
    time.sleep(12)
    yield from train(trial)


def sees_gpus(trial: Trial) -> Iterator[dict[str, float]]:
    """Leaves the GPUs that it may use."""
    (trial.folder / "gpus").write_text(os.environ["CUDA_VISIBLE_DEVICES"])
    yield from train(trial)


def uses_the_disk_of_its_node(trial: Trial) -> Iterator[dict[str, float]]:
    """Writes a file to the path in NODE_DISK before each rung."""
    for scores in train(trial):
        time.sleep(0.2)
        Path(os.environ["NODE_DISK"]).write_text("some data")
        yield scores


def notes_its_node(trial: Trial) -> Iterator[dict[str, float]]:
    """Notes the size of the trial, and the kind of the node that trains it."""
    notes = trial.folder / "nodes"
    if not notes.exists():
        notes.write_text(str(trial.hyperparameters["size"]))
    with notes.open("a") as file:
        file.write(f" {os.environ['NODE_KIND']}")
    for scores in train(trial):
        time.sleep(0.2)
        yield scores
