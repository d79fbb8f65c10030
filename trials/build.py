"""From a recipe to the program that runs its trials."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fewshot.faults import Fault, InputError
from fewshot.kinds import REGRESSION
from fewshot.learners.base import Learner, OwnParameters
from fewshot.learners.learners import (
    LEARNERS,
    REGRESSORS,
    learner_named,
    learns_all_classes,
    learns_numbers,
)
from fewshot.learners.per_task import PerTask
from fewshot.learners.protonet import ProtoNet
from fewshot.learners.ridge import Ridge
from fewshot.learners.scaled import Scaled
from fewshot.models.base import Model
from fewshot.models.columns import Columns
from fewshot.models.models import MODELS
from fewshot.models.untrained import Untrained
from fewshot.randomness import fold
from fewshot.registry import resolve
from fewshot.tasks.base import Pool
from fewshot.tasks.pool import TaskPool
from trials import adam, memory, sgd
from trials.adaptation import Adaptation
from trials.contract import Component, Recipe, Stage
from trials.lanes import Lanes
from trials.meta_training import MetaTraining, Part
from trials.new_task import distilled_task
from trials.objective import Objective
from trials.optimizer import Optimizer
from trials.pools import Sort, pools_of, sorts
from trials.sources import Sources

# Which stream of episodes scores which stage. The finalists' are fresh, the test's are elsewhere.
_STREAMS: Mapping[Stage, int] = {"search": 1, "final": 2, "test": 3}


def build(recipe: Recipe, *, lanes: int, folder: Path, cache: Path) -> Lanes:
    """The program of `recipe`: checkpoints go to `folder`, drawn or embedded inputs to `cache`.

    Raises InputError with every fault found in the tasks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return programs(recipe, cache)(lanes=lanes, folder=folder)


def programs(recipe: Recipe, cache: Path) -> partial[Lanes]:
    """What makes programs of `recipe` from `lanes` and `folder`, its inputs being loaded."""
    memory.keep_freed()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    objective = PROGRAMS[recipe.program](recipe, cache, device)
    return partial(Lanes, objective, device=device, optimizer=OPTIMIZERS[recipe.optimizer])


@dataclass(frozen=True)
class Examination:
    """What the data of a recipe turned out to be.

    task_sizes: number of examples of each training task; empty where there is no end to them.
    figures: accuracies to be shown beside the search's, such as the teacher's.
    """

    features: tuple[int, ...]
    task_sizes: Mapping[str, int] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)
    classes: tuple[str, ...] = ()


def examine(recipe: Recipe, cache: Path) -> Examination:
    """Load all that the trials will load, without running any; raises InputError as `build`."""
    if recipe.program == "adaptation":
        sources = Sources(recipe.datasets, cache)
        found = distilled_task(recipe, sources, cache)
        taught = found.teacher_accuracy
        figures = {} if taught is None else {"teacher": taught}
        features = tuple(sources.inputs.shape[1:])
        return Examination(features, figures=figures, classes=found.classes)
    pools = pools_of(recipe, cache, torch.device("cpu"))
    for sort, by_split in pools.items():
        (features,) = {pool.features for pool in by_split.values()}
        learner(recipe, features, recipe.max_way, sort, by_split.get("train"))
    sizes = [by_split["train"].sizes for by_split in pools.values() if "train" in by_split]
    known = {name: n for part in sizes for name, n in part.items()} if all(sizes) else {}
    return Examination(features, known, _untrained(recipe, pools))


def _untrained(recipe: Recipe, pools: Mapping[Sort, Mapping[str, Pool]]) -> dict[str, float]:
    """Accuracy on the test tasks of class means of the inputs themselves, with no model at all."""
    parts = []
    for sort, by_split in pools.items():
        test = by_split.get("test")
        if test is None:
            continue
        if not isinstance(test, TaskPool) or not test.inputs.is_floating_point():
            return {}
        key = fold(torch.tensor(recipe.seed), _STREAMS["test"])
        nearest = _scaled(ProtoNet(model=Untrained(), way=recipe.max_way), sort)
        parts.append(Part(nearest, None, {"test": (test, recipe.test_episodes, key)}))
    scored = MetaTraining(parts, 1).score({"none": torch.zeros(1)}, {}, "test")
    means = [task.metrics["accuracy"].item() for task in scored]
    return {"untrained prototypes": sum(means) / len(means)}


def part(
    registry: Mapping[str, Callable[..., Any]], component: Component, path: str, **more: Any
) -> Any:
    """The part that `component` names, built with its options."""
    factory = resolve(registry, component.name, f"{path}.name")
    try:
        return factory(**more, **component.options)
    except TypeError as error:
        raise InputError([Fault(path, f"has an option that does not fit: {error}.")]) from error


def student(recipe: Recipe, features: tuple[int, ...], n_classes: int) -> Model:
    """The model of an adaptation recipe."""
    model: Model = part(MODELS, recipe.model, "model", features=features, n_out=n_classes)
    return model


def learner(
    recipe: Recipe,
    features: tuple[int, ...],
    way: int,
    sort: Sort | None = None,
    train: Pool | None = None,
) -> Learner:
    """The learner of a meta-training recipe, for problems of `way` classes or of numbers.

    sort: of the tasks that it is to learn; the recipe's first if there is no word of it.
    train: the training tasks among them, if any are to be trained on.
    """
    sort = sort or next(iter(sorts(recipe)))
    model = _model(recipe, features, way, sort)
    made = learner_named(recipe.learner.name)
    found: Learner
    if sort.regresses and not learns_numbers(made):
        found = _regressor(recipe, model)
    else:
        own: dict[str, Any] = {"kind": REGRESSION} if sort.regresses else {}
        if learns_all_classes(made) and isinstance(train, TaskPool):
            own["classes"] = _class_counts(recipe, train)
        found = part(LEARNERS, recipe.learner, "learner", model=model, way=way, **own)
    if isinstance(found, OwnParameters) and found.per_task:
        found = _per_task(found, found.per_task, recipe, sort)
    return _scaled(found, sort)


def _model(recipe: Recipe, features: tuple[int, ...], way: int, sort: Sort) -> Model:
    """The model, or those of its outputs that are for the sort: classes first, then the number."""
    more: dict[str, Any] = {"features": features}
    if not _scores_classes(recipe):
        return part(MODELS, recipe.model, "model", **more)  # type: ignore[no-any-return]
    kinds = {each.regresses for each in sorts(recipe)}
    n_outputs = way * (False in kinds) + (True in kinds)
    model: Model = part(MODELS, recipe.model, "model", **more, n_out=n_outputs)
    if len(kinds) == 1:
        return model
    return Columns(model, way, 1) if sort.regresses else Columns(model, 0, way)


def _scores_classes(recipe: Recipe) -> bool:
    return learner_named(recipe.learner.name).model_scores_classes


def _class_counts(recipe: Recipe, train: TaskPool) -> tuple[int, ...]:
    if sum(not sort.regresses for sort in sorts(recipe)) > 1:
        rule = "can't be trained on the classes of tables and of other rows in one search."
        raise InputError([Fault("learner.name", rule, recipe.learner.name)])
    return train.class_counts


def _regressor(recipe: Recipe, model: Model) -> Learner:
    """What learns numbers beside a learner that knows classes only: a ridge head, embedded alike.

    Raises InputError if there is no embedding, or nothing but numbers to learn.
    """
    if recipe.regresses or _scores_classes(recipe):
        rule = f"must be one of {', '.join(sorted(REGRESSORS))} to learn numbers."
        raise InputError([Fault("learner.name", rule, recipe.learner.name)])
    return Ridge(model=model, way=1, kind=REGRESSION)


def _per_task(found: Learner, own: tuple[str, ...], recipe: Recipe, sort: Sort) -> Learner:
    trained = [each for each, tasks in sorts(recipe).items() for _ in tasks["train"]]
    places = [i for i, each in enumerate(trained) if each == sort]
    peers = [i for i, each in enumerate(trained) if each.regresses == sort.regresses]
    return PerTask(
        found, own, n_tasks=len(trained), own_tasks=_slice(places), peers=_slice(peers or places)
    )


def _slice(places: list[int]) -> slice:
    """Of places that follow one another; of none, the whole."""
    return slice(places[0], places[-1] + 1) if places else slice(None)


def _scaled(found: Learner, sort: Sort) -> Learner:
    """Numbers of rows are in units of their own; so are the features of tables."""
    targets = sort.regresses and sort.source != "functions"
    features = sort.source == "table"
    return Scaled(found, features=features, targets=targets) if features or targets else found


def _meta_training(recipe: Recipe, cache: Path, device: torch.device) -> Objective:
    key = torch.tensor(recipe.seed, device=device)
    stages: tuple[tuple[Stage, str, int], ...] = (
        ("search", "validation", recipe.validation_episodes),
        ("final", "validation", recipe.test_episodes),
        ("test", "test", recipe.test_episodes),
    )
    parts = [
        Part(
            learner(
                recipe,
                next(iter(by_split.values())).features,
                recipe.max_way,
                sort,
                by_split.get("train"),
            ),
            by_split.get("train"),
            {
                stage: (by_split[split], episodes, fold(key, _STREAMS[stage]))
                for stage, split, episodes in stages
                if split in by_split
            },
        )
        for sort, by_split in pools_of(recipe, cache, device).items()
    ]
    return MetaTraining(parts, recipe.episodes)


def _adaptation(recipe: Recipe, cache: Path, device: torch.device) -> Objective:
    sources = Sources(recipe.datasets, cache)
    task = distilled_task(recipe, sources, cache).task.to(device)
    model = student(recipe, tuple(sources.inputs.shape[1:]), task.n_classes)
    return Adaptation(model, sources.inputs.to(device), task, recipe.batch)


PROGRAMS: Mapping[str, Callable[[Recipe, Path, torch.device], Objective]] = {
    "adaptation": _adaptation,
    "meta_training": _meta_training,
}
OPTIMIZERS: Mapping[str, Optimizer] = {"adam": adam, "sgd": sgd}
