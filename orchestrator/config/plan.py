"""The plan of a search: its recipe, its space, its trial specs."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fewshot.losses.distillation import HINTON, Distillation
from orchestrator.config.sections.config import Config
from orchestrator.config.sections.parts import DatasetPart, DistillationSection, TeacherPart
from orchestrator.config.sections.space import RangeSection
from orchestrator.config.sections.tasks import FunctionSection, NoiseSection, TaskSection
from orchestrator.space.search_space import Range, SearchSpace
from orchestrator.space.simplex import Simplex, shared
from trials.contract import Component, Recipe, Stage, TaskSpec, TrialSpec

_LOG = ("lr/outer", "lr/inner", "lr/adapt", "distill/temperature")


@dataclass(frozen=True)
class Plan:
    """Everything that a search needs to know; independent of YAML."""

    name: str
    seed: int
    recipe: Recipe
    space: SearchSpace
    rungs: tuple[int, ...]
    eta: float
    trials: int
    reference_trials: int
    finalists: int
    seeds: int
    trial_seed: int | None
    task_sizes: Mapping[str, int] | None = None
    sampler: str = "fewtune"
    may_stop_early: bool = False

    def spec(
        self,
        number: int,
        hyperparameters: Mapping[str, float],
        task_weights: Mapping[str, float],
        *,
        attempt: int = 0,
        stage: Stage = "search",
        seed: int | None = None,
    ) -> TrialSpec:
        """The spec of a trial; `seed` is derived from the search seed, stage and number if None."""
        trial_seed = derived_seed(self.seed, stage, number) if seed is None else seed
        return TrialSpec(
            number=number,
            stage=stage,
            attempt=attempt,
            seed=trial_seed,
            recipe=self.recipe,
            hyperparameters=dict(hyperparameters),
            task_weights=dict(task_weights),
            rungs=self.rungs if stage == "search" else self.rungs[-1:],
        )


def derived_seed(*parts: int | str) -> int:
    """A seed in [0, 2^31) that depends on all of `parts`."""
    text = "/".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def plan_of(config: Config) -> Plan:
    """The plan of `config`."""
    steps = config.steps
    before = {max(1, round(share * steps)) for share in config.search.rungs}
    rungs = sorted({rung for rung in before if rung < steps} | {steps})
    return Plan(
        name=config.name,
        seed=config.seed,
        recipe=recipe_of(config),
        space=space_of(config),
        rungs=tuple(rungs),
        eta=config.search.eta,
        trials=config.search.trials,
        reference_trials=config.search.reference_trials,
        finalists=config.search.finalists,
        seeds=config.search.seeds,
        trial_seed=config.trial_seed,
        sampler=config.search.sampler,
        may_stop_early=config.search.stop == "auto",
    )


def recipe_of(config: Config) -> Recipe:
    """The recipe: everything that all trials of this search share."""
    shapes = config.episodes
    learner = config.learner
    return Recipe(
        program="adaptation" if config.adapts else "meta_training",
        datasets={name: _dataset(part) for name, part in config.datasets.items()},
        tasks={
            split: tuple(
                spec for section in getattr(config.tasks, split) for spec in _tasks(section)
            )
            for split in ("train", "validation", "test")
        },
        model=Component(name=config.model.name, options=config.model.options()),
        learner=Component(name=learner.name, options=learner.options())
        if learner
        else Component(name="student"),
        way=1 if config.kinds == {"regression"} else shapes.ways(),
        shot=shapes.shot,
        query=shapes.query,
        episodes=shapes.per_task,
        sampled_episodes=shapes.per_step or 0,
        validation_episodes=shapes.validation,
        test_episodes=shapes.test,
        batch=config.batch,
        optimizer=config.optimizer,
        precision=config.precision,
        teacher=None if config.teacher is None else _dataset(config.teacher),
        distillation=_distillation(config.distillation),
        weights_as=config.space.task_weights.weights_as,
        seed=config.seed,
        imbalance=shapes.imbalance,
        overlap=config.tasks.overlap,
    )


def _dataset(part: DatasetPart | TeacherPart) -> Component:
    return Component(name=part.source, options=part.options())


def _distillation(section: DistillationSection | None) -> Distillation:
    if section is None:
        return HINTON
    parts = section.decoupled
    return Distillation(
        direction=section.direction,
        standardise=section.standardise,
        decoupled=None if parts is None else (parts.target, parts.non_target),
    )


def _values(where: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    return {
        column: tuple(values) if isinstance(values, list) else (values,)
        for column, values in where.items()
    }


def _tasks(section: TaskSection | FunctionSection) -> list[TaskSpec]:
    if isinstance(section, FunctionSection):
        return [TaskSpec(name=name, function=section.function) for name in section.names()]
    wheres = [_values(section.where)]
    if section.each is not None:
        ((column, values),) = section.each.items()
        wheres = [wheres[0] | {column: (value,)} for value in values]
    return [
        TaskSpec(
            name=name,
            dataset=section.dataset,
            label=section.label,
            kind=section.kind,
            where=where,
            within=section.within,
            corrupt="shuffle" if section.corrupt == "shuffle" else None,
            noise=section.corrupt.noise if isinstance(section.corrupt, NoiseSection) else 0.0,
            query=None if section.query is None else _values(section.query),
            unlabelled=None if section.unlabelled is None else _values(section.unlabelled),
            n_unlabelled=section.n_unlabelled,
        )
        for name, where in zip(section.names(), wheres, strict=True)
    ]


def space_of(config: Config) -> SearchSpace:
    """The search space of `config`."""
    ranges: dict[str, Range] = {}
    fixed: dict[str, float] = {}
    for name, value in config.space.scalars().items():
        if isinstance(value, RangeSection):
            ranges[name] = Range(value.low, value.high, log=name in _LOG)
        else:
            fixed[name] = float(value)
    return SearchSpace(ranges, fixed, _weights(config))


def _weights(config: Config) -> Simplex | dict[str, float]:
    names = tuple(config.train_names())
    section = config.space.task_weights
    if section.fixed is not None:
        return {name: section.fixed.get(name, 0.0) for name in names}
    prior = dict.fromkeys(names, 1 / max(1, len(names)))
    if section.prior is not None:  # the user's values need to sum to 1 within 1e-6 only
        prior = {name: section.prior[name] / sum(section.prior.values()) for name in names}
    groups = tuple(config.train_groups())
    if len(set(groups)) < 2 or not section.search:
        return prior
    share = section.zero_below / len(names)
    prior = shared(prior, groups)
    return Simplex(names, tuple(prior.values()), section.half_width, share, groups)
