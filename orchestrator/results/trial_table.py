"""The trials of a search as a pandas DataFrame."""

import math

import pandas as pd

from orchestrator.record.studies.study import StudyRecord
from orchestrator.space.search_space import SearchSpace


def trial_table(record: StudyRecord, space: SearchSpace) -> pd.DataFrame:
    """One row for each trial, with the trial's number as the index.

    Columns: `state` (complete, pruned, failed or running); `score`, the last reported skill, NaN
    before the first report; each searched option and each hyperparameter by its name, NaN if the
    trial does not have it; `lambda/<task>` for each training
    task; `score@<step>` for each rung, NaN if the trial did not reach it; `seconds` of training,
    NaN for running trials; `reason`, why the trial ended.
    """
    steps = sorted({step for trial in record.trials() for step in trial.reports})
    rows = []
    for trial in record.trials():
        hyperparameters, weights = space.decode(trial.params)
        rows.append(
            {
                "state": trial.state,
                "score": trial.score,
                **space.chosen(trial.params),
                **hyperparameters,
                **{f"lambda/{task}": weight for task, weight in weights.items()},
                **{f"score@{step}": trial.reports.get(step, math.nan) for step in steps},
                "seconds": trial.notes.get("seconds", math.nan),
                "reason": trial.notes.get("reason", ""),
            }
        )
    numbers = [trial.number for trial in record.trials()]
    return pd.DataFrame(rows, index=pd.Index(numbers, name="trial"))
