"""Which parameters made the difference between the best trials of a search and the others."""

import math
import warnings

import optuna
from optuna.trial import TrialState, create_trial

from orchestrator.record.studies.readable_study import readable_study
from orchestrator.record.studies.study import StudyRecord
from orchestrator.sampling.ranked_trials import RankedTrials
from orchestrator.sampling.sampler import view
from orchestrator.space.search_space import SearchSpace

# PED-ANOVA compares the best trials with all; it needs at least this many best ones.
_BEST, _SHARE = 5, 0.1
_ENOUGH = 2 * _BEST


def importances(
    record: StudyRecord, space: SearchSpace, rungs: tuple[int, ...]
) -> dict[str, float]:
    """Parts of 1 by parameter, the largest first; weights are `lambda/<task>`.

    PED-ANOVA (Watanabe et al., "PED-ANOVA: efficiently quantifying hyperparameter importance in
    arbitrary subspaces", IJCAI 2023) of the best tenth, at least 5, of the complete and pruned
    trials. A pruned trial has the value that the sampler sees. Empty below 10 trials.
    """
    values = {
        trial.number: value
        for trial, value in view(RankedTrials(space, rungs, record.trials()))
        if trial.state in ("complete", "pruned") and not math.isnan(trial.score)
    }
    if len(values) < _ENOUGH or len(set(values.values())) < 2:
        return {}
    # It imports scikit-learn and SciPy's statistics: a quarter of all CPU time for imports.
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    study = optuna.create_study(direction="maximize")
    for trial in readable_study("importances", record, space).trials:
        if trial.number in values:
            study.add_trial(
                create_trial(
                    state=TrialState.COMPLETE,
                    value=values[trial.number],
                    params=trial.params,
                    distributions=trial.distributions,
                )
            )
    evaluator = PedAnovaImportanceEvaluator(target_quantile=max(_SHARE, _BEST / len(values)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return get_param_importances(study, evaluator=evaluator)
