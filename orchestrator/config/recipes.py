"""The recipe of a config: everything that fixes shapes and control flow."""

from collections.abc import Mapping
from typing import Any

from fewshot.losses.distillation import HINTON, Distillation
from orchestrator.config.sections.config import Config
from orchestrator.config.sections.own_loop import AnyConfig, OwnLoopConfig
from orchestrator.config.sections.parts import DatasetPart, DistillationSection, TeacherPart
from orchestrator.config.sections.tasks import (
    AnyTask,
    FunctionSection,
    NoiseSection,
    WorldSection,
)
from trials.contract import Component, Recipe, TaskSpec, TrainingFunction


def recipe_of(config: AnyConfig) -> Recipe:
    """The recipe: everything that all trials of this search share."""
    if isinstance(config, OwnLoopConfig):
        return _own_loop(config)
    shapes = config.episodes
    learner = config.learner
    return Recipe(
        program=_program(config),
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
        way=shapes.ways() if "classification" in config.kinds else 1,
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
        fixed_classes=shapes.fixed_classes,
        overlap=config.tasks.overlap,
    )


def _program(config: Config) -> str:
    if "world" in config.kinds:
        return "worlds"
    return "adaptation" if config.adapts else "meta_training"


def _own_loop(config: OwnLoopConfig) -> Recipe:
    """The recipe of a training function, which has no episodes."""
    timeout = config.search.trial_timeout
    names = {split: getattr(config.tasks, split) for split in ("train", "validation", "test")}
    return Recipe(
        program="own_loop",
        function=TrainingFunction(name=config.program, folder=config.path, timeout=timeout),
        datasets={},
        tasks={split: tuple(TaskSpec(name=name) for name in names[split]) for split in names},
        model=Component(name=config.program),
        learner=Component(name="own_loop"),
        way=1,
        shot=1,
        query=1,
        episodes=0,
        validation_episodes=0,
        test_episodes=0,
        seed=config.seed,
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


def _tasks(section: AnyTask) -> list[TaskSpec]:
    if isinstance(section, WorldSection):
        world = Component(name=section.world, options=section.options())
        return [TaskSpec(name=name, world=world) for name in section.names()]
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
            order=section.order,
            corrupt="shuffle" if section.corrupt == "shuffle" else None,
            noise=section.corrupt.noise if isinstance(section.corrupt, NoiseSection) else 0.0,
            query=None if section.query is None else _values(section.query),
            unlabelled=None if section.unlabelled is None else _values(section.unlabelled),
            n_unlabelled=section.n_unlabelled,
        )
        for name, where in zip(section.names(), wheres, strict=True)
    ]
