"""Builds the program that runs the trials of a recipe."""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from fewshot.models.models import fills_processor
from fewshot.randomness import fold
from fewshot.tasks.base import Pool
from fewshot.tasks.pool import TaskPool
from fewshot.tasks.regression import RegressionPool
from trials.contract import Recipe, Stage, TrialProgram
from trials.data.pools import TaskKind, pools_of, sources_of
from trials.data.scales import with_scales
from trials.data.sources import Load, Sources
from trials.lanes import memory
from trials.lanes.lanes import Lanes
from trials.lanes.objective import Objective
from trials.lanes.optimizers import adam, sgd
from trials.lanes.optimizers.base import Optimizer
from trials.lanes.step.precision import set_matmul_precision
from trials.own_loop.program import OwnLoop
from trials.programs.adaptation.adaptation import Adaptation, NewTask
from trials.programs.adaptation.new_task import distilled_task
from trials.programs.factories import (
    BuildContext,
    build_learner,
    build_student,
    frozen_part,
    spread_of,
)
from trials.programs.meta_training.objective import MetaTraining
from trials.programs.meta_training.task_group import TaskGroup, TeacherSignal
from trials.programs.pooled import pooled_model, reference_scores
from trials.programs.teachers import teacher_of
from trials.programs.worlds.objective import world_training

log = logging.getLogger(__name__)

# The random stream of the episodes that score each stage. Finalists are scored on fresh episodes
# of the validation tasks, and the test stage on episodes of the test tasks.
STREAMS: Mapping[Stage, int] = {"search": 1, "final": 2, "test": 3}


def build(
    recipe: Recipe,
    *,
    lanes: int,
    folder: Path,
    cache: Path,
    threads: int = 1,
    device: str | None = None,
    load: Load = Sources,
) -> TrialProgram:
    """The program of `recipe`.

    folder: the folder for checkpoints. cache: a folder for rendered or embedded inputs.
    threads: number of CPU threads of this process from now on.
    device: None for the GPU if there is one, else the CPU.
    load: loads the datasets of the recipe.

    Raises InputError with all errors found in the tasks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if recipe.function is not None:
        return OwnLoop(recipe, folder=folder, threads=threads)
    return programs(recipe, cache, threads, device, load)(lanes=lanes, folder=folder)


def programs(
    recipe: Recipe,
    cache: Path,
    threads: int = 1,
    device: str | None = None,
    load: Load = Sources,
) -> partial[Lanes]:
    """A factory of programs of `recipe`; its arguments are `lanes` and `folder`.

    The inputs are loaded here, once for all programs that the factory makes.
    """
    memory.keep_freed()
    torch.set_num_threads(threads)
    set_matmul_precision(recipe.precision)
    where = best_device() if device is None else torch.device(device)
    objective = PROGRAMS[recipe.program](recipe, cache, where, load)
    alone = one_by_one(recipe, where)
    return partial(
        Lanes,
        objective,
        device=where,
        optimizer=OPTIMIZERS[recipe.optimizer],
        rows_per_pass=1 if alone else None,
    )


def one_by_one(recipe: Recipe, device: torch.device) -> bool:
    """Whether lanes are trained one after the other instead of together."""
    return device.type == "cpu" and fills_processor(recipe.model.name)


def best_device() -> torch.device:
    """The device for training: the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _meta_training(
    recipe: Recipe, cache: Path, device: torch.device, load: Load = Sources
) -> Objective:
    sources = sources_of(recipe, cache, load)
    pools = pools_of(recipe, sources, device)
    parts = task_groups(recipe, sources, pools, device, cache)
    return MetaTraining(parts, recipe.episodes, recipe.sampled_episodes)


def task_groups(
    recipe: Recipe,
    sources: Sources | None,
    pools: Mapping[TaskKind, Mapping[str, Pool]],
    device: torch.device,
    cache: Path,
) -> list[TaskGroup]:
    """One group for each kind of task: the tasks and the learner that learns them."""
    recipe = with_scales(recipe, pools)
    key = torch.tensor(recipe.seed, device=device)
    train = {
        task_kind: by_split["train"] for task_kind, by_split in pools.items() if "train" in by_split
    }
    of_rows = [pool for by_split in pools.values() for pool in by_split.values()]
    inputs = [pool.inputs for pool in of_rows if isinstance(pool, TaskPool | RegressionPool)]
    context = BuildContext(inputs=inputs[0] if inputs else None, cache=cache)
    context = context._replace(spread=spread_of(recipe, train, context))
    stages: tuple[tuple[Stage, str, int], ...] = (
        ("search", "validation", recipe.validation_episodes),
        ("final", "validation", recipe.test_episodes),
        ("test", "test", recipe.test_episodes),
    )
    return [
        TaskGroup(
            build_learner(
                recipe,
                next(iter(by_split.values())).features,
                recipe.max_way,
                task_kind,
                by_split.get("train"),
                context,
            ),
            by_split.get("train"),
            {
                stage: (by_split[split], episodes, fold(key, STREAMS[stage]))
                for stage, split, episodes in stages
                if split in by_split
            },
            sampled=recipe.weights_as == "sampling",
            teacher_signal=_teacher_signal(recipe, sources, cache, task_kind, device)
            if "train" in by_split
            else None,
            frozen=frozen_part(recipe, next(iter(by_split.values())).features, context),
            references=_references(recipe, sources, task_kind, by_split),
        )
        for task_kind, by_split in pools.items()
    ]


def _references(
    recipe: Recipe, sources: Sources | None, task_kind: TaskKind, by_split: Mapping[str, Pool]
) -> Mapping[str, Tensor]:
    """The scores of pooled models on the episodes of the test stage, if there are such models."""
    model = pooled_model(recipe, sources, task_kind, by_split)
    if model is None:
        return {}
    key = fold(torch.tensor(recipe.seed), STREAMS["test"])
    return reference_scores(model, by_split["test"], key, recipe.test_episodes)


def _teacher_signal(
    recipe: Recipe, sources: Sources | None, cache: Path, task_kind: TaskKind, device: torch.device
) -> TeacherSignal | None:
    if recipe.teacher is None:
        return None
    teacher = teacher_of(recipe, sources, cache, task_kind=task_kind).to(device)
    return TeacherSignal(teacher, recipe.distillation)


def _adaptation(
    recipe: Recipe, cache: Path, device: torch.device, load: Load = Sources
) -> Objective:
    sources = load(recipe.datasets, cache)
    task = distilled_task(recipe, sources, cache).task.to(device)
    return adapting(recipe, sources.inputs_on(device), task, cache)


def adapting(recipe: Recipe, inputs: Tensor, task: NewTask, cache: Path) -> Adaptation:
    """The objective of a student on one new task. inputs: on the device that trains."""
    context = BuildContext(inputs=inputs, cache=cache)
    model = build_student(recipe, tuple(inputs.shape[1:]), task.n_classes, context)
    return Adaptation(model, inputs, task, recipe.batch, recipe.distillation)


# The arguments: recipe, folder for cached files, device, and optionally how datasets are loaded.
PROGRAMS: Mapping[str, Callable[..., Objective]] = {
    "adaptation": _adaptation,
    "meta_training": _meta_training,
    "worlds": world_training,
}
OPTIMIZERS: Mapping[str, Optimizer] = {"adam": adam, "sgd": sgd}
