"""The trial that a user's training function gets as its argument."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What a training function needs to know, and where it saves its files.

    The function trains `steps` steps and yields {validation task: score} at each step in `rungs`
    that is above `last_step`. Higher scores are better.

    number: counts the trials of the stage from 0.
    stage: `search`, or `final` for the retraining of a finalist with a new seed.
    seed: in [0, 2^31); random numbers should depend only on it.
    hyperparameters: value of each name in `space`: a number, or an option of a choice.
    weights: weight of each training task; they are >= 0 and sum to 1; some may be exactly 0.
    rungs: ascending; the last one is `steps`. In stage `final` it is the only one.
    folder: a folder of this trial, which exists. It is kept if the trial is interrupted; the folder
        of the best model is exported.
    last_step: the last rung that was reported before an interruption; 0 for a new trial.
    """

    number: int
    stage: Literal["search", "final"]
    seed: int
    hyperparameters: Mapping[str, Any]
    weights: Mapping[str, float]
    rungs: tuple[int, ...]
    steps: int
    folder: Path
    last_step: int
