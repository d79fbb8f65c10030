"""A search's Optuna study with task weights by name in place of simplex coordinates."""

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from orchestrator.record.studies.study import StudyRecord, distributions
from orchestrator.space.search_space import SearchSpace
from orchestrator.space.simplex import Simplex

_STATES = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "running": TrialState.RUNNING,
}


def readable_study(name: str, record: StudyRecord, space: SearchSpace) -> optuna.Study:
    """A copy of the study in memory, for `optuna.visualization.matplotlib`.

    Its parameters are the searched hyperparameters and, where weights are searched, the weight
    `lambda/<task>` in [0, 1] of every training task. The study on disk has the coordinates of the
    simplex instead. Changes of the copy are not saved.
    """
    study = optuna.create_study(study_name=name, direction="maximize")
    for trial in record.trials():
        study.add_trial(_readable(trial.number, record, space))
    return study


def _readable(number: int, record: StudyRecord, space: SearchSpace) -> FrozenTrial:
    trial = record[number]
    hyperparameters, weights = space.decode(trial.params)
    known = space.chosen(trial.params) | hyperparameters
    params = {name: known[name] for name in space.parameters() if name in known}
    ranges: dict[str, BaseDistribution] = distributions(
        {name: of for name, of in space.parameters().items() if name in params}
    )
    if isinstance(space.weights, Simplex):
        params |= {f"lambda/{task}": weight for task, weight in weights.items()}
        ranges |= {f"lambda/{task}": FloatDistribution(0.0, 1.0) for task in weights}
    state = _STATES[trial.state]
    return create_trial(
        state=state,
        value=trial.score if state is TrialState.COMPLETE else None,
        params=params,
        distributions=ranges,
        intermediate_values=dict(trial.reports),
        user_attrs=dict(trial.notes),
    )
