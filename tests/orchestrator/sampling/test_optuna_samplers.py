"""Samplers of Optuna as the sampler of a search."""

from collections.abc import Sequence

import numpy as np
import optuna
import pytest
from optuna.samplers import BaseSampler, RandomSampler

from fewshot.errors.inputs import InputError
from orchestrator.config.sections.config import SAMPLERS
from orchestrator.record.studies.study import StudiedTrial
from orchestrator.sampling import optuna_samplers
from orchestrator.sampling.optuna_samplers import FEWTUNE, OPTUNA, OptunaSampler, sampler_of
from orchestrator.sampling.ranked_trials import RankedTrials
from orchestrator.sampling.sampler import Sampler
from orchestrator.sampling.simplex_sampler import SimplexSampler
from orchestrator.space.search_space import Values
from tests.orchestrator import toys
from tests.orchestrator.sampling.test_sampler import RUNGS, SPACE, drawn, some, studied

HERE = "tests.orchestrator.sampling.test_optuna_samplers"


class Spy(RandomSampler):
    """Keeps the study that it sees, and has a state in the trials that it suggests."""

    seen: Sequence[optuna.trial.FrozenTrial] = ()

    def sample_relative(self, study, trial, search_space):
        Spy.seen = study.get_trials()
        study._storage.set_trial_system_attr(trial._trial_id, "asked", trial.number)
        return {}


def without_a_seed() -> BaseSampler:
    return RandomSampler(seed=3)


class Broken(RandomSampler):
    def sample_independent(self, study, trial, param_name, param_distribution):
        raise KeyError("its own fault")


def raising(seed: int) -> BaseSampler:
    raise ValueError("no licence")


def not_one() -> str:
    return "random"


def own(name: str, trials: list[StudiedTrial], seed: int = 0, n: int = 1) -> list[Values]:
    made = sampler_of(toys.plan(space=SPACE, sampler=name, seed=seed))
    return made.suggest(RankedTrials(SPACE, RUNGS, trials), [], n)


def test_every_sampler_of_the_config_exists() -> None:
    assert (FEWTUNE, *OPTUNA) == SAMPLERS
    assert isinstance(sampler_of(toys.plan()), Sampler)


@pytest.mark.parametrize("name", ["gp", "tpe", "random", f"{HERE}:Spy", f"{HERE}:without_a_seed"])
@pytest.mark.parametrize("known", [0, 2, 14])
def test_suggestions_are_in_the_box_and_depend_on_trials_and_seed_only(
    name: str, known: int
) -> None:
    trials, box = some()[:known], SPACE.box()
    found = own(name, trials, n=2)
    assert all(p.keys() == box.keys() for p in found)
    assert all(box[k].low <= v <= box[k].high for p in found for k, v in p.items())
    assert found == own(name, trials, n=2)
    if "without" not in name:
        assert found != own(name, trials, seed=1, n=2)
        assert found[0] != found[1]


def test_a_batch_is_what_is_suggested_one_after_the_other() -> None:
    made = sampler_of(toys.plan(space=SPACE, sampler="tpe"))
    ranked = RankedTrials(SPACE, RUNGS, some())
    batch = made.suggest(ranked, [], 3)
    one_by_one: list[Values] = []
    for _ in range(3):
        one_by_one += made.suggest(ranked, one_by_one)
    assert batch == one_by_one


@pytest.mark.parametrize("replayed", [False, True])
def test_optuna_sees_pruned_trials_with_their_calibrated_value(monkeypatch, replayed: bool) -> None:
    monkeypatch.setattr(optuna_samplers, "_REPLAYED", (Spy,) if replayed else ())
    trials = [*some(), studied(14, drawn(np.random.default_rng(5)), "running", 0.4)]
    ranked = RankedTrials(SPACE, RUNGS, trials)
    ahead = [drawn(np.random.default_rng(6))]
    OptunaSampler(Spy, SPACE, 0).suggest(ranked, ahead)
    states = [t.state.name for t in Spy.seen]
    assert states == ["COMPLETE"] * 14 + ["RUNNING"] * 3  # the last is the one that is asked for
    assert [t.params for t in Spy.seen[:15]] == [t.params for t in trials]
    assert Spy.seen[15].params == ahead[0]
    pruned = next(t for t in trials if t.state == "pruned")
    assert Spy.seen[pruned.number].value == pruned.score + ranked.gain(RUNGS[0])
    assert Spy.seen[3].value == 0  # it diverged: as bad as the worst, at most 0
    asked = [t.system_attrs.get("asked") for t in Spy.seen[:16]]
    assert asked == (list(range(16)) if replayed else [None] * 16)


def test_cma_es_is_replayed() -> None:
    found = own("cmaes", some(), n=2)
    assert found == own("cmaes", some(), n=2)


def test_the_gaussian_process_of_optuna_learns_from_the_trials() -> None:
    trials = [studied(0, SPACE.rate_design(1, 0)[0], "complete", 0.1, 0.2, 0.3)]
    rng = np.random.default_rng(0)
    for number in range(1, 30):
        params = drawn(rng)
        score = -abs(np.log10(params["lr/outer"]) + 2)
        trials.append(studied(number, params, "pruned" if number % 2 else "complete", score))
    found = [own("gp", trials, seed)[0]["lr/outer"] for seed in range(3)]
    assert all(10**-2.6 < rate < 10**-1.4 for rate in found)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("raising", "must return a sampler, but raised ValueError: no licence"),
        ("not_one", "must return an optuna.samplers.BaseSampler, but returned 'random'"),
    ],
)
def test_a_users_factory_that_makes_no_sampler_is_refused(name: str, rule: str) -> None:
    with pytest.raises(InputError, match=r"search\.sampler") as error:
        sampler_of(toys.plan(sampler=f"{HERE}:{name}"))
    assert rule in str(error.value)


def test_a_users_sampler_that_raises_is_told_in_a_sentence() -> None:
    with pytest.raises(InputError, match=r"search\.sampler: can't suggest a trial: KeyError"):
        own(f"{HERE}:Broken", some())


def test_our_own_sampler_for_studies_can_be_the_users() -> None:
    made = OptunaSampler(lambda seed: SimplexSampler(SPACE.weights, seed=seed), SPACE, 0)
    found = made.suggest(RankedTrials(SPACE, RUNGS, some()), [], 1)[0]
    assert found.keys() == SPACE.box().keys()
