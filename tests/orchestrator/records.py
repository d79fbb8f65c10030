"""A small search's record, for the tests of whoever keeps it or shows it."""

from collections.abc import Sequence
from pathlib import Path

from fewshot.metrics import Estimate
from orchestrator.tracking.recorder import Recorder
from trials.contract import (
    AdaptationResult,
    Component,
    Outcome,
    Recipe,
    RungReport,
    TaskSpec,
    TrialResult,
    TrialSpec,
)

TASKS = ("greek", "korean")
START = 1_790_000_000.0
RECIPE = Recipe(
    program="meta_training",
    datasets={"glyphs": Component(name="glyphs")},
    tasks={"train": (TaskSpec(name="fonts", dataset="glyphs", label="font"),)},
    model=Component(name="mlp"),
    learner=Component(name="protonet"),
    way=5,
    shot=1,
    query=5,
    episodes=1,
    validation_episodes=10,
    test_episodes=10,
)


def spec(number: int, attempt: int = 0) -> TrialSpec:
    return TrialSpec(
        number=number,
        attempt=attempt,
        seed=number,
        recipe=RECIPE,
        hyperparameters={"lr/outer": 10 ** -(1 + number % 3)},
        task_weights={"latin": 0.1 * (number % 10), "cyrillic": 1 - 0.1 * (number % 10)},
        rungs=(10, 20),
    )


def report(number: int, step: int) -> RungReport:
    score = Estimate(0.3 + 0.03 * number + step / 200, 0.02, 10)
    return RungReport(
        key=spec(number).key,
        step=step,
        score=score,
        per_task=dict.fromkeys(TASKS, score),
        metrics={"val/greek/accuracy": 0.5, "val/korean/accuracy": 0.6, "train/loss": 1 / step},
        time=START + 60 * number + step,
        seconds=step,
        lane_seconds=step / 4,
    )


def result(number: int, outcome: Outcome) -> TrialResult:
    at = START + 60 * number + 30
    adaptations = tuple(
        AdaptationResult(
            task=task,
            split="validation",
            score=Estimate(0.3 + 0.03 * number, 0.02, 10),
            metrics={"accuracy": 0.4 + 0.02 * number, "f1": 0.4},
            time=at,
            seconds=2,
        )
        for task in TASKS
    )
    return TrialResult(
        key=spec(number).key,
        outcome=outcome,
        step=20 if outcome == "complete" else 10,
        adaptations=adaptations if outcome == "complete" else (),
        error="loss is NaN" if outcome == "failed" else None,
        time=at,
    )


def started(recorder: Recorder, name: str = "demo", time: float = START) -> None:
    recorder.search_started(
        name=name, experiment="glyphs", params={"trials": 3, "eta": 3.0}, tags={}, time=time
    )


def trial(recorder: Recorder, number: int, outcome: Outcome) -> None:
    """Every third trial is complete, stopped, failed, if `outcome` says nothing else."""
    recorder.trial_started(spec(number), time=START + 60 * number)
    for step in (10, 20) if outcome == "complete" else (10,):
        recorder.reported(report(number, step))
    note = "Below the best third at step 10." if outcome == "pruned" else ""
    recorder.trial_ended(result(number, outcome), state=outcome, note=note)


def whole(
    recorder: Recorder,
    outcomes: Sequence[Outcome] = ("complete", "pruned", "failed"),
    artifacts: Sequence[Path] = (),
) -> None:
    started(recorder)
    for number, outcome in enumerate(outcomes):
        trial(recorder, number, outcome)
    recorder.search_ended(
        state="complete", metrics={"score": 0.4}, artifacts=artifacts, time=START + 1000
    )
