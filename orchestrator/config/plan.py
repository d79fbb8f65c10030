"""The plan of a search: its recipe, its space, its trial specs."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from fewshot.losses.distillation import HINTON, Distillation
from orchestrator.config.sections.config import Config
from orchestrator.config.sections.parts import DatasetPart, DistillationSection, TeacherPart
from orchestrator.config.sections.space import RangeSection
from orchestrator.config.sections.tasks import FunctionSection, NoiseSection, TaskSection
from orchestrator.space.choices import Condition
from orchestrator.space.search_space import Range, SearchSpace
from orchestrator.space.simplex import Simplex, shared
from trials.contract import Component, Recipe, Stage, TaskSpec, TrialSpec

_LOG = ("lr/outer", "lr/inner", "lr/adapt", "distill/temperature")


# The recipe and the rungs for values of the searched options.
Variants = Callable[[Mapping[str, Any]], tuple[Recipe, tuple[int, ...]]]


@dataclass(frozen=True)
class Plan:
    """Everything that a search needs to know; independent of YAML.

    recipe, rungs: those of the plain config. variants: those of a trial, if options of the recipe
    are searched. All trials have the same number of rungs; the study records the scores of all of
    them at `rungs`.
    """

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
    variants: Variants | None = field(default=None, compare=False)

    def spec(
        self,
        number: int,
        hyperparameters: Mapping[str, float],
        task_weights: Mapping[str, float],
        choices: Mapping[str, Any] = MappingProxyType({}),
        *,
        attempt: int = 0,
        stage: Stage = "search",
        seed: int | None = None,
    ) -> TrialSpec:
        """The spec of a trial; `seed` is derived from the search seed, stage and number if None.

        choices: the values of the searched options.
        """
        trial_seed = derived_seed(self.seed, stage, number) if seed is None else seed
        recipe, rungs = self.recipe, self.rungs
        if self.variants is not None:
            recipe, rungs = self.variants(choices)
        return TrialSpec(
            number=number,
            stage=stage,
            attempt=attempt,
            seed=trial_seed,
            recipe=recipe,
            hyperparameters=dict(hyperparameters),
            task_weights=dict(task_weights),
            rungs=rungs if stage == "search" else rungs[-1:],
            choices=dict(choices),
        )

    def trial(self, number: int, params: Mapping[str, Any], **fields: Any) -> TrialSpec:
        """The spec of a trial with the parameters that its study has."""
        return self.spec(number, *self.space.decode(params), self.space.chosen(params), **fields)

    def rung(self, spec: TrialSpec, step: int) -> int:
        """The step at which the study records the score of a trial at its own `step`."""
        return self.rungs[len(self.rungs) - len(spec.rungs) + spec.rungs.index(step)]


def derived_seed(*parts: int | str) -> int:
    """A seed in [0, 2^31) that depends on all of `parts`."""
    text = "/".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def plan_of(config: Config) -> Plan:
    """The plan of `config`."""
    return Plan(
        name=config.name,
        seed=config.seed,
        recipe=recipe_of(config),
        space=space_of(config),
        rungs=rungs_of(config),
        eta=config.search.eta,
        trials=config.search.trials,
        reference_trials=config.search.reference_trials,
        finalists=config.search.finalists,
        seeds=config.search.seeds,
        trial_seed=config.trial_seed,
        variants=_variants(config) if config.searched else None,
        sampler=config.search.sampler,
    )


def rungs_of(config: Config) -> tuple[int, ...]:
    """The steps at which a trial of the plain config is scored, ascending."""
    steps = config.steps
    before = {max(1, round(share * steps)) for share in config.search.rungs}
    return (*sorted(rung for rung in before if rung < steps), steps)


def _variants(config: Config) -> Variants:
    known: dict[tuple[tuple[str, Any], ...], tuple[Recipe, tuple[int, ...]]] = {}

    def variant(values: Mapping[str, Any]) -> tuple[Recipe, tuple[int, ...]]:
        key = tuple(sorted(values.items()))
        if key not in known:
            chosen = config.variant(values)
            known[key] = recipe_of(chosen), rungs_of(chosen)
        return known[key]

    return variant


def recipes_of(config: Config) -> list[Recipe]:
    """The recipe of the plain config, then others, such that each searched option occurs."""
    recipes = [recipe_of(config.variant(values)) for values in config.representatives()]
    return list({recipe.fingerprint: recipe for recipe in recipes}.values())


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
    searched = config.searched
    return SearchSpace(
        ranges,
        fixed,
        _weights(config),
        {one.name: one.parameter for one in searched},
        {one.name: one.conditions for one in searched if one.conditions} | _readers(config),
    )


def _readers(config: Config) -> dict[str, tuple[Condition, ...]]:
    """For each scalar that only some models or learners read: which ones."""
    found: dict[str, tuple[Condition, ...]] = {}
    outermost = [one for one in config.searched if one.name in ("model", "learner")]
    for one in outermost:
        reads = {
            value: config.variant({one.name: value}).readable_scalars() for value in one.values
        }
        for name in config.space.scalars():
            readers = tuple(value for value, scalars in reads.items() if name in scalars)
            if len(readers) < len(reads):
                found[name] = (*found.get(name, ()), Condition(one.name, readers))
    return found


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
