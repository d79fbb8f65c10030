"""Facts about the data of a recipe, with the checks that need the data, before any trial runs."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from fewshot.episodes import Episode
from fewshot.errors.inputs import InputError, input_error
from fewshot.errors.parts import as_input_error
from fewshot.machine import gigabytes
from fewshot.metrics import accuracy
from fewshot.randomness import fold
from fewshot.tasks.base import Pool
from fewshot.tasks.pool import TaskPool
from trials.contract import Recipe
from trials.data.fixed_classes import fixed_classes
from trials.data.pools import TaskKind, dropped, pools_of, sources_of
from trials.data.sources import Sources
from trials.lanes import memory
from trials.lanes.objective import Objective
from trials.own_loop.program import check_function
from trials.programs.adaptation.new_task import distilled_task
from trials.programs.build import (
    OPTIMIZERS,
    STREAMS,
    adapting,
    best_device,
    one_by_one,
    task_groups,
)
from trials.programs.factories import build_learner, build_student
from trials.programs.memory_forecast import memory_needs, scoring_needs
from trials.programs.meta_training.objective import MetaTraining
from trials.programs.meta_training.task_group import TaskGroup
from trials.programs.pooled import POOLED, WITH_OFFSET
from trials.programs.teachers import teacher_of
from trials.programs.untrained import untrained
from trials.programs.worlds.objective import untrained_policy, world_training

# What the references are called in `figures`.
_SHOWN = {
    POOLED: "pooled model without adaptation",
    WITH_OFFSET: "pooled model with a group offset",
}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataSummary:
    """Facts about the data of a recipe.

    features: the shape of one example.
    task_sizes: number of examples of each training task; empty for functions, which have no limit.
    figures: accuracies or skills of other models on the test tasks, such as the teacher and pooled
        models, to show beside the result.
    classes: the classes of the new task if the program is adaptation, or the classes that all tasks
        have if they keep their order; else empty.
    null_losses: for each training task the loss that its loss is divided by.
    untrained: the recipe of the untrained model; None if raw inputs carry no meaning.
    dropped: for each split the number of examples that are left out because a later split has them.
    measure: the unit of the scores if it is not known; "" for skill, or accuracy on test tasks.
    """

    features: tuple[int, ...]
    task_sizes: Mapping[str, int] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    null_losses: Mapping[str, float] = field(default_factory=dict)
    untrained: Recipe | None = None
    dropped: Mapping[str, int] = field(default_factory=dict)
    measure: str = ""


def summarise_data(recipe: Recipe, cache: Path, *, lanes: int = 1, workers: int = 1) -> DataSummary:
    """Load everything that the trials will load, without running a trial, and summarise it.

    lanes: number of lanes of each worker. workers: number of workers that will share this machine.

    Raises InputError as `build` does, and also if the workers need more memory than there is.
    """
    if recipe.function is not None:
        check_function(recipe)
        return DataSummary((), measure="score")
    if recipe.program == "worlds":
        return _of_worlds(recipe)
    sources = sources_of(recipe, cache)
    if recipe.program == "adaptation":
        assert sources is not None, "the config check refuses adaptation to functions"
        new = distilled_task(recipe, sources, cache)
        inputs = sources.inputs
        _check_memory(adapting(recipe, inputs, new.task, cache), recipe, inputs, lanes, workers)
        shape = tuple(inputs.shape[1:])
        _check_init(build_student(recipe, shape, len(new.classes)).init, "model")
        accuracy_of_teacher = new.teacher_accuracy
        figures = {} if accuracy_of_teacher is None else {"teacher": accuracy_of_teacher}
        return DataSummary(shape, figures=figures, classes=new.classes, dropped=new.dropped)
    pools = pools_of(recipe, sources, torch.device("cpu"))
    parts = task_groups(recipe, sources, pools, torch.device("cpu"), cache)
    inputs_of_rows = None if sources is None else sources.inputs
    plain = untrained(recipe, pools)
    objective = MetaTraining(parts, recipe.episodes, recipe.sampled_episodes)
    _check_memory(objective, recipe, inputs_of_rows, lanes, workers)
    for part in parts:
        _check_init(part.learner.init, "learner")
    if plain is not None:
        needed = scoring_needs(_without_training(plain, pools, parts))
        _check_room(needed, recipe, inputs_of_rows)
    features = next(pool.features for by_split in pools.values() for pool in by_split.values())
    sizes = [by_split["train"].sizes for by_split in pools.values() if "train" in by_split]
    known = {name: n for part in sizes for name, n in part.items()} if all(sizes) else {}
    return DataSummary(
        features,
        known,
        classes=fixed_classes(recipe, sources),
        figures=_teacher_accuracy(recipe, sources, cache, pools) | _pooled(parts),
        null_losses={name: loss for part in parts for name, loss in part.null_losses.items()},
        untrained=plain,
        dropped=dropped(recipe, sources),
    )


def _of_worlds(recipe: Recipe) -> DataSummary:
    objective = world_training(recipe, Path(), torch.device("cpu"))
    observation = (objective.held_out_worlds[0].world.n_observation,)
    return DataSummary(
        observation, null_losses=objective.spreads, untrained=untrained_policy(recipe)
    )


def _check_init(init: Callable[[torch.Generator], object], path: str) -> None:
    """Check that a part can make its initial parameters; raises InputError if it can't."""
    with as_input_error(path, "can't make its initial parameters"):
        init(torch.Generator().manual_seed(0))


def _teacher_accuracy(
    recipe: Recipe,
    sources: Sources | None,
    cache: Path,
    pools: Mapping[TaskKind, Mapping[str, Pool]],
) -> dict[str, float]:
    """The teacher's own accuracy on the classification tasks of the test split."""
    key, right = fold(torch.tensor(recipe.seed), STREAMS["test"]), []
    for task_kind, by_split in pools.items():
        test = by_split.get("test")
        if recipe.teacher is None or not isinstance(test, TaskPool):
            continue
        drawn = test.by_row().draw(key, recipe.test_episodes)
        rows = Episode(*(part.flatten(0, 1) for part in drawn))
        logits = teacher_of(recipe, sources, cache, task_kind=task_kind).logits(rows)
        right.append(accuracy(logits, rows.query_y))
    return {"teacher": torch.cat(right).mean().item()} if right else {}


def _pooled(parts: Sequence[TaskGroup]) -> dict[str, float]:
    """The mean scores of the pooled models, if there is one kind of task."""
    if len(parts) != 1:
        return {}
    return {_SHOWN[who]: float(scores.mean()) for who, scores in parts[0].references.items()}


def _check_memory(
    objective: Objective, recipe: Recipe, inputs: Tensor | None, lanes: int, workers: int
) -> None:
    """Raises InputError if `workers` on this machine need more memory than it has.

    inputs: the inputs of this process. Their memory is freed before the workers load inputs.

    The memory of a GPU must hold the state of all lanes; it need not hold a step of all lanes,
    because a step is split into smaller passes if memory is short.
    """
    cpu, device = torch.device("cpu"), best_device()
    try:
        needs = memory_needs(objective, OPTIMIZERS[recipe.optimizer], cpu)
    except InputError:
        raise
    except Exception as error:  # a part raises: its trials will fail with the traceback
        log.info("no_memory_forecast error=%s", error)
        return
    loaded = 0.0 if inputs is None else float(inputs.numel() * inputs.element_size())
    at_once = 1 if device.type == "cuda" or one_by_one(recipe, device) else lanes
    needed = needs.of(lanes, at_once) + loaded
    left = memory.left(device) if device.type == "cuda" else (memory.left(cpu) + loaded) / workers
    if needed <= left:
        return
    state = gigabytes(workers * lanes * needs.state)
    what = f", {state} of it for the parameters of {lanes * workers} lanes"
    raise _too_large(recipe, inputs, lanes, needed * workers, left * workers, what)


def _check_room(needed: float, recipe: Recipe, inputs: Tensor | None) -> None:
    """Raises InputError if scoring the untrained model needs more memory than there is."""
    if needed > (left := memory.left(torch.device("cpu"))):
        raise _too_large(recipe, inputs, 1, needed, left, " to score the untrained model")


def _too_large(
    recipe: Recipe, inputs: Tensor | None, lanes: int, needed: float, left: float, what: str
) -> InputError:
    rule = f"takes about {gigabytes(needed)} of memory{what}, but {gigabytes(left)} are available."
    images = [name for name, part in recipe.datasets.items() if part.name == "images"]
    if images and inputs is not None:
        shape = " x ".join(map(str, inputs.shape[1:]))
        remedy = (
            "Set `size`: with `size: 84` images are scaled down to 84 x 84 pixels. Or use "
            "fewer search.lanes, smaller episodes or a smaller model."
        )
        return input_error(f"datasets.{images[0]}.size", rule, shape, remedy)
    remedy = "Use fewer lanes or workers, smaller episodes or a smaller model."
    return input_error("search.lanes", rule, lanes, remedy)


def _without_training(
    plain: Recipe, pools: Mapping[TaskKind, Mapping[str, Pool]], parts: Sequence[TaskGroup]
) -> MetaTraining:
    """The objective of the untrained model with recipe `plain`.

    Its scoring episodes are those of `parts`, so the scores are comparable to those of the trials.
    """
    same = [
        TaskGroup(
            build_learner(plain, next(iter(by_split.values())).features, plain.max_way, task_kind),
            None,
            p.held_out,
        )
        for (task_kind, by_split), p in zip(pools.items(), parts, strict=True)
    ]
    return MetaTraining(same, plain.episodes)
