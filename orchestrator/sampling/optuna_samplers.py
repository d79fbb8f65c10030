"""Optuna's own samplers, or a user's, as the sampler of a search."""

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import islice

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from fewshot.errors.inputs import input_error
from fewshot.errors.parts import as_input_error
from fewshot.registry import resolve
from orchestrator.config.plan import Plan, derived_seed
from orchestrator.record.studies.study import StudiedTrial, distributions
from orchestrator.sampling.process.points import NO_AFFINITY
from orchestrator.sampling.ranked_trials import RankedTrials
from orchestrator.sampling.sampler import Sampler, view
from orchestrator.space.search_space import SearchSpace, Values

Factory = Callable[..., BaseSampler]

FEWTUNE = "fewtune"
_PATH = "search.sampler"
OPTUNA: Mapping[str, Factory] = {
    "gp": GPSampler,
    "tpe": TPESampler,
    "cmaes": CmaEsSampler,
    "random": RandomSampler,
}
# The last two trials of a search (`_LAST` of `trial_sources`) are the means of the 8 and of the 4
# best.
_MEANS = (8, 4)
# These samplers store their state in the trials that they suggest, so they have to see each trial
# being asked and told.
_REPLAYED = (CmaEsSampler,)


class OptunaSampler:
    """Suggests the parameters of trials by a sampler of Optuna; as `Sampler`.

    The study that Optuna sees is in memory and has the trials of `view` as complete trials with
    their values, because Optuna's Gaussian process and CMA-ES ignore pruned trials.

    make: makes the sampler from a seed.

    Law: the same trials and seed give the same suggestions, whatever was suggested before. So each
    suggestion is made by a new sampler and a new study; the cost is about 10 ms for 200 trials,
    beside that of the sampler itself.
    """

    def __init__(self, make: Callable[[int], BaseSampler], space: SearchSpace, seed: int) -> None:
        self._make, self._seed, self._space = make, seed, space
        self._distributions = distributions(space.box())
        self._replays: bool | None = None  # not known before the first suggestion

    def has_model(self, trials: RankedTrials, ahead: int = 0) -> bool:
        """Always true: the samplers of Optuna know themselves how many random trials they need."""
        del trials, ahead
        return True

    def suggest(self, trials: RankedTrials, ahead: Sequence[Values], n: int = 1) -> list[Values]:
        """Parameters of the next `n` trials, one after the other.

        Those of `ahead` and those suggested so far are shown as running trials. Raises InputError
        if the sampler, which may be a user's, raises.
        """
        ended = view(trials)
        running = [*(t.params for t in trials.running), *ahead]
        found: list[Values] = []
        known = len(trials.trials) + len(ahead)
        with as_input_error(_PATH, "can't suggest a trial"):
            for _ in range(n):
                found.append(self._suggest(ended, [*running, *found], known + len(found)))
        return found

    def last(self, trials: RankedTrials, left: int) -> Values | None:
        """Parameters of the trial that is `left`-th from the end: a mean of the best.

        None if fewer trials are complete. A mean, because Optuna's samplers do not tell where they
        expect the best score.
        """
        return mean_of_best(trials, self._space, _MEANS[-left])

    def _suggest(
        self,
        ended: Sequence[tuple[StudiedTrial, float]],
        running: Sequence[Mapping[str, float]],
        known: int,
    ) -> Values:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a sampler is experimental
            if self._replays is None:
                self._replays = isinstance(self._make(self._seed), _REPLAYED)
            replays = self._replays
            seed = self._seed if replays else derived_seed(self._seed, known)
            study = optuna.create_study(direction="maximize", sampler=self._make(seed))
            show = _replay if replays else _add
            for trial, value in ended:
                show(study, trial.params, self._distributions, value)
            for params in running:
                show(study, params, self._distributions, None)
            return self._space.active(study.ask(self._distributions).params)


def _add(
    study: optuna.Study,
    params: Mapping[str, float],
    ranges: dict[str, BaseDistribution],
    value: float | None,
) -> None:
    """Add a trial; one without a value is running."""
    study.add_trial(_trial(params, {name: ranges[name] for name in params}, value))


def _replay(
    study: optuna.Study,
    params: Mapping[str, float],
    ranges: dict[str, BaseDistribution],
    value: float | None,
) -> None:
    """Let the sampler suggest a trial, which gets `params` instead, and tell its value."""
    study.enqueue_trial(dict(params))
    trial = study.ask(ranges)
    _ = trial.relative_params  # suggests; Optuna would not, as all parameters are given
    if value is not None:
        study.tell(trial, value)


def _trial(
    params: Mapping[str, float], ranges: dict[str, BaseDistribution], value: float | None
) -> FrozenTrial:
    return create_trial(
        state=TrialState.RUNNING if value is None else TrialState.COMPLETE,
        value=value,
        params=dict(params),
        distributions=ranges,
    )


def mean_of_best(ranked_trials: RankedTrials, space: SearchSpace, n: int) -> Values | None:
    """The mean of the best `n` complete trials that are not references; None if there are fewer.

    Each of the best trials is partly best by chance; their mean is less affected by chance.
    """
    best = list(islice(ranked_trials.complete(reference=False), n))
    return space.mean([t.params for t in best]) if len(best) == n else None


def sampler_of(plan: Plan, affinity: Mapping[str, float] = NO_AFFINITY) -> Sampler | OptunaSampler:
    """The sampler that the plan names.

    Raises InputError if a user's factory raises an exception, or returns something else than a
    sampler of Optuna.
    """
    seed = derived_seed(plan.seed, "sampler")
    if plan.sampler == FEWTUNE:
        return Sampler(plan.space, seed, affinity)
    factory = resolve({FEWTUNE: Sampler, **OPTUNA}, plan.sampler, _PATH)
    make = _maker(factory)
    if plan.sampler not in OPTUNA:
        _check(make, plan.sampler)
    return OptunaSampler(make, plan.space, seed)


def _maker(factory: Factory) -> Callable[[int], BaseSampler]:
    if "seed" in inspect.signature(factory).parameters:
        return lambda seed: factory(seed=seed)
    return lambda seed: factory()


def _check(make: Callable[[int], BaseSampler], name: str) -> None:
    try:
        made = make(0)
    except Exception as error:  # a user's factory can raise anything
        rule = f"must return a sampler, but raised {type(error).__name__}: {error}."
        raise input_error(_PATH, rule, name, "It gets no argument but `seed`.") from error
    if not isinstance(made, BaseSampler):
        rule = f"must return an optuna.samplers.BaseSampler, but returned {made!r}."
        raise input_error(_PATH, rule, name)
