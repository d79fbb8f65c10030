"""Runs Ray Tune, and Optuna alone, as their documentation recommends."""

import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from throughput_course import Course, Limits, Report
from throughput_plain import PlainTrial

from orchestrator.config.plan import Plan, derived_seed, plan_of
from orchestrator.config.sections.config import Config
from orchestrator.space.search_space import Values
from orchestrator.space.simplex import Simplex
from orchestrator.tracking.mlflow_client import connect

_EXPERIMENT = "throughput"
_SMALLEST = 1e-6  # lower bound of the uniform numbers whose logarithms give the weights


def draws(plan: Plan) -> list[str]:
    """The names of the uniform numbers, one per task, that Optuna's FAQ maps to the simplex."""
    weights = plan.space.weights
    return [f"u/{task}" for task in weights.tasks] if isinstance(weights, Simplex) else []


def decode(plan: Plan, drawn: Mapping[str, float]) -> tuple[Values, Values]:
    """Hyperparameters and task weights: w_i = log(u_i) / sum_j log(u_j)."""
    hyperparameters = dict(plan.space.fixed) | {name: drawn[name] for name in plan.space.ranges}
    weights = plan.space.weights
    if not isinstance(weights, Simplex):
        return hyperparameters, dict(weights)
    shares = {task: -math.log(drawn[f"u/{task}"]) for task in weights.tasks}
    total = sum(shares.values())
    return hyperparameters, {task: share / total for task, share in shares.items()}


def optuna_serial(config: Config, folder: Path, cache: Path, limits: Limits) -> Course:
    """`study.optimize` with the default sampler, a pruner, and one MLflow run per trial."""
    import mlflow
    import optuna
    import torch

    torch.set_num_threads(1)
    connect(_database(folder))
    mlflow.set_tracking_uri(_database(folder))
    mlflow.set_experiment(_EXPERIMENT)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    plan = plan_of(config)
    plain, course = PlainTrial(plan.recipe, cache, by_hand=False), _course(plan)

    def stop_late(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        course.ended[trial.number] = time.time()
        if course.is_late(limits.seconds):
            study.stop()

    def objective(trial: optuna.Trial) -> float:
        drawn = {n: trial.suggest_float(n, r.low, r.high, log=r.log) for n, r in _ranges(plan)}
        drawn |= {n: trial.suggest_float(n, _SMALLEST, 1 - _SMALLEST) for n in draws(plan)}
        hyperparameters, weights = decode(plan, drawn)
        score = math.nan
        with mlflow.start_run(run_name=f"trial-{trial.number}"):
            shown = {f"lambda/{task}": weight for task, weight in weights.items()}
            mlflow.log_params(hyperparameters | shown)
            seed = derived_seed(plan.seed, "search", trial.number)
            for step, score in plain.run(seed, hyperparameters, weights, plan.rungs):
                course.reports.append(Report(time.time(), trial.number, step, score))
                mlflow.log_metric("score", score, step=step)
                trial.report(score, step)
                if trial.should_prune():
                    raise optuna.TrialPruned
        return score

    pruner = optuna.pruners.SuccessiveHalvingPruner(
        min_resource=plan.rungs[0], reduction_factor=int(plan.eta)
    )
    sampler = optuna.samplers.TPESampler(seed=plan.seed)
    study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)
    course.begin = time.time()
    study.optimize(objective, n_trials=plan.trials, callbacks=[stop_late])
    course.recorded = time.time()
    course.close(limits.seconds)
    return course


def ray_tune(
    config: Config,
    folder: Path,
    cache: Path,
    limits: Limits,
    *,
    by_hand: bool = False,
    cores: int = 1,
) -> Course:
    """Ray Tune with OptunaSearch, ASHA and its MLflow callback.

    cores: number of cores per trial; the GPUs, if any, are shared by all running trials.
    """
    import ray
    import torch
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    connect(_database(folder))
    plan, n_cores = plan_of(config), len(os.sched_getaffinity(0))
    cores = min(cores, n_cores)
    at_a_time = n_cores // cores
    share = {"cpu": cores, "gpu": torch.cuda.device_count() / at_a_time}
    course = _course(plan)

    class Trial(tune.Trainable):
        """One step is one rung. An actor keeps its data from one trial to the next."""

        def setup(self, drawn: dict[str, float], plan: Plan, cache: Path) -> None:
            torch.set_num_threads(1)
            self._plan, self._plain = plan, PlainTrial(plan.recipe, cache, by_hand=by_hand)
            self._begin(drawn)
            self._ready = time.time()

        def reset_config(self, new_config: dict[str, float]) -> bool:
            self._begin(new_config)
            return True

        def _begin(self, drawn: dict[str, float]) -> None:
            seed = derived_seed(self._plan.seed, "search", self.trial_id)
            named = {name.replace(":", "/"): value for name, value in drawn.items()}
            decoded = decode(self._plan, named)
            self._rungs: Iterator[tuple[int, float]] = self._plain.run(
                seed, *decoded, self._plan.rungs
            )

        def step(self) -> dict[str, float | bool]:
            at, score = next(self._rungs)
            done = at == self._plan.rungs[-1] or math.isnan(score)
            return {"score": score, "at": at, "ready": self._ready, "done": done}

    watch, late = _watching(course, limits)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(address="local", num_cpus=n_cores, include_dashboard=False, log_to_driver=False)
    logging.getLogger("ray").setLevel(logging.ERROR)
    space = {n: tune.uniform(_SMALLEST, 1 - _SMALLEST) for n in draws(plan)}
    space |= {
        n: (tune.loguniform if r.log else tune.uniform)(r.low, r.high) for n, r in _ranges(plan)
    }
    space = {n.replace("/", ":"): range_ for n, range_ in space.items()}  # Tune uses `/` itself
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(Trial, plan=plan, cache=cache), share),
        param_space=space,
        tune_config=tune.TuneConfig(
            metric="score",
            mode="max",
            search_alg=OptunaSearch(seed=plan.seed),
            scheduler=ASHAScheduler(
                time_attr="at",
                max_t=plan.rungs[-1],
                grace_period=plan.rungs[0],
                reduction_factor=plan.eta,
            ),
            num_samples=plan.trials,
            max_concurrent_trials=at_a_time,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=_EXPERIMENT,
            storage_path=str(folder),
            verbose=0,
            stop=late,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            callbacks=[
                MLflowLoggerCallback(_database(folder), experiment_name=_EXPERIMENT),
                watch,
            ],
        ),
    )
    errors = tuner.fit().errors
    ray.shutdown()
    if errors:
        raise errors[0]
    course.close(limits.seconds)
    return course


def _watching(course: Course, limits: Limits):
    """A callback that writes the results to `course`, and a stopper for the time limit."""
    from ray import tune

    class ProgressDisplay(tune.Callback):
        def on_trial_result(self, iteration, trials, trial, result, **info):
            report = Report(time.time(), trial.trial_id, result["at"], result["score"])
            course.reports.append(report)
            course.begin = min(course.begin or math.inf, result["ready"])

        def on_trial_complete(self, iteration, trials, trial, **info):
            course.ended[trial.trial_id] = course.recorded = time.time()

    class Late(tune.Stopper):
        def __call__(self, trial_id, result) -> bool:
            return False

        def stop_all(self) -> bool:
            return course.is_late(limits.seconds)

    return ProgressDisplay(), Late()


def _course(plan: Plan) -> Course:
    return Course(plan.rungs[-1], plan.trials)


def _ranges(plan: Plan):
    return plan.space.ranges.items()


def _database(folder: Path) -> str:
    return f"sqlite:///{folder / 'mlflow.db'}"
