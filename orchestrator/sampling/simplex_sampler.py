"""The sampler for any Optuna study: task weights that sum to 1, beside parameters of any kind."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from orchestrator.sampling.process.candidates import anywhere
from orchestrator.sampling.process.points import NO_AFFINITY, Coordinates
from orchestrator.space.simplex import Simplex

_SEEN = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)


def _check_affinity(simplex: Simplex | None, affinity: Mapping[str, float]) -> None:
    """Raises ValueError unless there is a finite number >= 0 for every task, or none at all."""
    tasks = () if simplex is None else simplex.tasks
    if affinity and set(affinity) != set(tasks):
        raise ValueError(f"affinity must have the tasks {sorted(tasks)}, not {sorted(affinity)}")
    wrong = {task: value for task, value in affinity.items() if not 0 <= value < math.inf}
    if wrong:
        raise ValueError(f"affinity must be finite and not negative, not {wrong}")


class SimplexSampler(BaseSampler):
    """Suggests by a Gaussian process, see `orchestrator.sampling.process.gaussian_process`.

    Pruned trials are used: with their last intermediate value, plus the mean gain of the completed
    trials after that step. Running trials are pending points, so that parallel workers get
    different suggestions. Parameters that are suggested together depend only on the seed, on the
    other trials and on the number of the trial. The study must have one objective.

    simplex: the task weights, which the objective gets by `simplex.suggest(trial)`; None if there
        are none.
    seed: None for a random one.
    startup: the number of trials that are drawn at random before the process is used.
    affinity: for every task a number >= 0, how much it is expected to help; may be wrong, or empty.
    """

    def __init__(
        self,
        simplex: Simplex | None = None,
        *,
        seed: int | None = None,
        startup: int = 10,
        affinity: Mapping[str, float] = NO_AFFINITY,
    ) -> None:
        _check_affinity(simplex, affinity)
        # A plain dict, because Ray Tune pickles its sampler.
        self._simplex, self._startup, self._affinity = simplex, startup, dict(affinity)
        self._seed = int(np.random.default_rng(seed).integers(1 << 31)) if seed is None else seed
        self._independent = RandomSampler(seed=self._seed)
        self._common = IntersectionSearchSpace()

    def reseed_rng(self) -> None:
        self._seed = int(np.random.default_rng().integers(1 << 31))
        self._independent.reseed_rng()

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        del trial
        space: dict[str, BaseDistribution] = {}
        if self._simplex is not None:
            box = FloatDistribution(-self._simplex.box, self._simplex.box)
            space = dict.fromkeys(self._simplex.names, box)
        common = self._common.calculate(study)
        return space | {name: of for name, of in common.items() if not of.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        _check(study)
        if not search_space:
            return {}
        simplex = self._simplex if self._has_simplex(search_space) else None
        coordinates = Coordinates(search_space, simplex, self._affinity)
        rng = np.random.default_rng([self._seed, trial.number])
        trials = [
            t
            for t in study.get_trials(deepcopy=False, states=_SEEN)
            if t.number != trial.number and search_space.keys() <= t.params.keys()
        ]
        sign = 1 if study.direction == StudyDirection.MAXIMIZE else -1
        values = _values(trials, sign)
        if len(trials) < self._startup or not values:
            return coordinates.params(anywhere(1, coordinates, rng))[0]
        return self._suggest(coordinates, trials, values, rng)

    def _has_simplex(self, search_space: Mapping[str, BaseDistribution]) -> bool:
        return self._simplex is not None and search_space.keys() >= set(self._simplex.names)

    def _suggest(
        self,
        coordinates: Coordinates,
        trials: Sequence[FrozenTrial],
        values: Mapping[int, float],
        rng: np.random.Generator,
    ) -> dict[str, Any]:
        # Imported here, because importing BoTorch takes a second.
        from orchestrator.sampling.process.gaussian_process import GaussianProcess

        ended = coordinates.points([t.params for t in trials if t.number in values])
        running = coordinates.points([t.params for t in trials if t.state == TrialState.RUNNING])
        process = GaussianProcess(coordinates, ended, np.array(list(values.values())))
        return coordinates.params(process.suggest(1, running, rng))[0]

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        _check(study)
        return self._independent.sample_independent(study, trial, param_name, param_distribution)


def _check(study: Study) -> None:
    if len(study.directions) > 1:
        raise ValueError("SimplexSampler optimises one objective, but the study has several.")


def _values(trials: Sequence[FrozenTrial], sign: int) -> dict[int, float]:
    """The values, higher is better, of the ended trials that have one, by number."""
    gains: defaultdict[int, list[float]] = defaultdict(list)
    for trial in trials:
        if trial.state == TrialState.COMPLETE and trial.value is not None:
            for step, seen in trial.intermediate_values.items():
                gains[step].append(sign * (trial.value - seen))
    found = {}
    for trial in trials:
        if trial.state == TrialState.COMPLETE and trial.value is not None:
            found[trial.number] = sign * trial.value
        elif trial.state == TrialState.PRUNED and trial.last_step is not None:
            gain = [g for g in gains[trial.last_step] if math.isfinite(g)]
            last = sign * trial.intermediate_values[trial.last_step]
            found[trial.number] = last + (sum(gain) / len(gain) if gain else 0.0)
    finite = [value for value in found.values() if math.isfinite(value)]
    if not finite:
        return {}
    low, high = min(finite), max(finite)
    return {
        number: min(max(value, low), high)
        for number, value in found.items()
        if not math.isnan(value)
    }
