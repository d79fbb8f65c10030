"""The sampler in Optuna studies, with Optuna's own suite of tests for samplers."""

import re
import subprocess
import sys
import warnings
from collections.abc import Callable

import numpy as np
import optuna
import pytest
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    RelativeSamplerTestCase,
    SingleOnlySamplerTestCase,
)

from orchestrator.sampling.simplex_sampler import SimplexSampler
from orchestrator.space.simplex import Simplex
from tests.paths import ROOT

optuna.logging.set_verbosity(optuna.logging.ERROR)
TASKS = tuple("abcdef")
SIMPLEX = Simplex(TASKS, (1 / 6,) * 6, zero_below=0.02)


@pytest.mark.slow
class TestAsAnySampler(BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: SimplexSampler(seed=0, startup=0)


def objective(trial: optuna.Trial) -> float:
    weights = SIMPLEX.suggest(trial)
    rate = trial.suggest_float("rate", 1e-4, 1e-1, log=True)
    right = trial.suggest_categorical("learner", ["protonet", "maml"]) == "protonet"
    missed = abs(weights["b"] - 0.7) + abs(weights["e"] - 0.3)
    return -missed - 0.2 * abs(np.log10(rate) + 2) + 0.3 * right


def best(sampler: BaseSampler, trials: int = 30, direction: str = "maximize") -> float:
    study = optuna.create_study(sampler=sampler, direction=direction)
    sign = 1 if direction == "maximize" else -1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study.optimize(lambda trial: sign * objective(trial), n_trials=trials)
    return sign * study.best_value


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_finds_sparse_weights_beside_a_rate_and_a_choice(direction: str) -> None:
    found = best(SimplexSampler(SIMPLEX, seed=1), direction=direction)
    at_random = [best(optuna.samplers.RandomSampler(seed=seed)) for seed in range(5)]
    assert found > max(at_random)
    assert found > 0.0  # at most .3


def test_a_right_affinity_helps_among_many_tasks() -> None:
    tasks = tuple(f"task_{i}" for i in range(20))
    simplex = Simplex(tasks, (1 / 20,) * 20, zero_below=0.01)
    affinity = dict.fromkeys(tasks, 0.1) | {"task_7": 2.0, "task_8": 0.8}

    def score(seed: int, affinity: dict[str, float]) -> float:
        study = optuna.create_study(
            sampler=SimplexSampler(simplex, seed=seed, affinity=affinity), direction="maximize"
        )
        study.optimize(lambda trial: simplex.suggest(trial)["task_7"], n_trials=10)
        return study.best_value

    told, plain = ([score(seed, known) for seed in range(8)] for known in (affinity, {}))
    assert np.mean(told) > np.mean(plain) + 0.3


def test_it_searches_for_ray_tune(tmp_path) -> None:
    from ray.tune.search.optuna import OptunaSearch

    def made() -> OptunaSearch:
        sampler = SimplexSampler(SIMPLEX, seed=0, startup=4)
        return OptunaSearch(space=SIMPLEX.suggest, sampler=sampler, metric="score", mode="max")

    search = made()
    for n in range(12):
        if n == 8:  # as if Ray Tune had been interrupted
            search.save(str(tmp_path / "state"))
            search = made()
            search.restore(str(tmp_path / "state"))
        weights = SIMPLEX.decode(search.suggest(str(n)))
        assert sum(weights.values()) == pytest.approx(1)
        search.on_trial_complete(str(n), {"score": weights["b"]})
    assert weights["b"] > 0.8


@pytest.mark.parametrize(
    "affinity", [{"a": 1.0}, dict.fromkeys(TASKS, -1.0), dict.fromkeys(TASKS, float("nan"))]
)
def test_a_wrong_affinity_is_refused_at_once(affinity) -> None:
    with pytest.raises(ValueError, match="affinity must"):
        SimplexSampler(SIMPLEX, affinity=affinity)


def test_suggestions_depend_on_the_seed_and_the_trials_only() -> None:
    def suggested(seed: int) -> dict[str, float]:
        study = optuna.create_study(sampler=SimplexSampler(SIMPLEX, seed=seed, startup=3))
        study.optimize(objective, n_trials=5)
        again = optuna.create_study(sampler=SimplexSampler(SIMPLEX, seed=seed, startup=3))
        again.add_trials(study.trials)
        params = [s.ask(study.trials[-1].distributions).params for s in (study, again)]
        assert params[0] == params[1]
        return dict(params[0])

    assert suggested(1) != suggested(2)


def test_the_weights_of_the_first_trial_are_drawn_together() -> None:
    largest = []
    for seed in range(30):
        study = optuna.create_study(sampler=SimplexSampler(SIMPLEX, seed=seed))
        weights = SIMPLEX.suggest(study.ask())
        assert sum(weights.values()) == pytest.approx(1)
        largest.append(max(weights.values()))
    assert max(largest) > 0.9
    assert min(largest) < 0.5


def studied() -> optuna.Study:
    """A study of eight trials, whose next suggestion comes from the model."""
    sampler = SimplexSampler(SIMPLEX, seed=0, startup=4)
    study = optuna.create_study(sampler=sampler, direction="maximize")
    study.optimize(objective, n_trials=8)
    return study


def test_suggestions_are_near_a_pruned_trial_with_the_best_score() -> None:
    study = studied()
    distributions = study.trials[0].distributions
    trial = study.ask(distributions)
    trial.report(5.0, 1)
    study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    at = SIMPLEX.decode(trial.params)
    near = SIMPLEX.decode(study.ask(distributions).params)
    assert sum(abs(near[task] - at[task]) for task in TASKS) < 1.0


def test_running_trials_keep_suggestions_apart() -> None:
    study = studied()
    running = [study.ask(study.trials[0].distributions).params for _ in range(3)]
    assert len({tuple(params.values()) for params in running}) == 3


def test_the_example_of_the_documentation_runs(capsys) -> None:
    text = (ROOT / "docs" / "sampler.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    made: dict[str, object] = {}
    exec(compile(example, "sampler.md", "exec"), made)
    assert capsys.readouterr().out.startswith("{'news': ")
    study, simplex = made["study"], made["simplex"]
    study.enqueue_trial(simplex.encode({"news": 1.0}) | {"rate": 1e-3})
    study.optimize(made["objective"], n_trials=1)
    assert study.trials[-1].value == pytest.approx(0.999)


def test_importing_it_changes_no_settings_of_optuna():
    code = (
        "import optuna; before = optuna.logging.get_verbosity()\n"
        "import orchestrator.sampling.simplex_sampler\n"
        "assert optuna.logging.get_verbosity() == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
