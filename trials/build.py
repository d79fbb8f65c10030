"""From a recipe to the program that runs its trials."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fewshot.faults import Fault, InputError
from fewshot.kinds import REGRESSION
from fewshot.learners.base import Learner
from fewshot.learners.learners import CLASSIFIERS, LEARNERS, REGRESSORS
from fewshot.learners.protonet import ProtoNet
from fewshot.models.base import Model
from fewshot.models.models import MODELS
from fewshot.models.untrained import Untrained
from fewshot.randomness import fold
from fewshot.tasks.base import Pool
from fewshot.tasks.functions import FAMILIES, function_pool
from fewshot.tasks.pool import TaskPool, pool
from trials.adaptation import Adaptation
from trials.contract import Component, Recipe, Stage
from trials.lanes import Lanes
from trials.meta_training import HeldOut, MetaTraining
from trials.new_task import distilled_task
from trials.objective import Objective
from trials.sources import Sources

# Which stream of episodes scores which stage. The finalists' are fresh, the test's are elsewhere.
_STREAMS: Mapping[Stage, int] = {"search": 1, "final": 2, "test": 3}


def build(recipe: Recipe, *, lanes: int, folder: Path, cache: Path) -> Lanes:
    """The program of `recipe`: checkpoints go to `folder`, drawn or embedded inputs to `cache`.

    Raises InputError with every fault found in the tasks.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    folder.mkdir(parents=True, exist_ok=True)
    objective = PROGRAMS[recipe.program](recipe, cache, device)
    return Lanes(objective, lanes=lanes, folder=folder, device=device)


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
    pools = _pools(recipe, cache, torch.device("cpu"))
    train, test = pools["train"], pools["test"]
    learner(recipe, train.features, recipe.way)
    return Examination(train.features, train.sizes, _untrained(recipe, test))


def _untrained(recipe: Recipe, test: Pool) -> dict[str, float]:
    """Accuracy on the test tasks of class means of the inputs themselves, with no model at all."""
    if not isinstance(test, TaskPool) or not test.inputs.is_floating_point():
        return {}
    key = fold(torch.tensor(recipe.seed), _STREAMS["test"])
    nearest = ProtoNet(model=Untrained(), way=recipe.way)
    held_out: dict[Stage, HeldOut] = {"test": (test, recipe.test_episodes, key)}
    scored = MetaTraining(nearest, test, 1, held_out).score({"none": torch.zeros(1)}, {}, "test")
    means = [task.metrics["accuracy"].item() for task in scored]
    return {"untrained prototypes": sum(means) / len(means)}


def part(
    registry: Mapping[str, Callable[..., Any]], component: Component, path: str, **more: Any
) -> Any:
    """The registered part that `component` names, built with its options."""
    if component.name not in registry:
        raise InputError(
            [Fault(f"{path}.name", f"must be one of {', '.join(registry)}.", component.name)]
        )
    try:
        return registry[component.name](**more, **component.options)
    except TypeError as error:
        raise InputError([Fault(path, f"has an option that does not fit: {error}.")]) from error


def student(recipe: Recipe, features: tuple[int, ...], n_classes: int) -> Model:
    """The model of an adaptation recipe."""
    model: Model = part(MODELS, recipe.model, "model", features=features, n_out=n_classes)
    return model


def learner(
    recipe: Recipe, features: tuple[int, ...], way: int, classes: Sequence[int] = ()
) -> Learner:
    """The learner of a meta-training recipe, for problems of `way` classes or of functions.

    classes: number of classes of each training task; none where nothing is to be trained.
    """
    name = recipe.learner.name
    more: dict[str, Any] = {"features": features}
    if getattr(LEARNERS.get(name), "model_scores_classes", False):
        more["n_out"] = way
    model = part(MODELS, recipe.model, "model", **more)
    own: dict[str, Any] = {"kind": REGRESSION} if recipe.regresses else {}
    if name in CLASSIFIERS:
        own["classes"] = classes
    if recipe.regresses and name not in REGRESSORS:
        rule = f"must be one of {', '.join(sorted(REGRESSORS))} to learn functions."
        raise InputError([Fault("learner.name", rule, name)])
    found: Learner = part(LEARNERS, recipe.learner, "learner", model=model, way=way, **own)
    return found


def _meta_training(recipe: Recipe, cache: Path, device: torch.device) -> Objective:
    pools = _pools(recipe, cache, device)
    train = pools["train"]
    key = torch.tensor(recipe.seed, device=device)

    def held_out(stage: Stage, split: str, episodes: int) -> HeldOut:
        return pools[split], episodes, fold(key, _STREAMS[stage])

    return MetaTraining(
        learner(recipe, train.features, recipe.way, _class_counts(train)),
        train,
        recipe.episodes,
        {
            "search": held_out("search", "validation", recipe.validation_episodes),
            "final": held_out("final", "validation", recipe.test_episodes),
            "test": held_out("test", "test", recipe.test_episodes),
        },
    )


def _class_counts(train: Pool) -> tuple[int, ...]:
    return train.class_counts if isinstance(train, TaskPool) else ()


def _pools(recipe: Recipe, cache: Path, device: torch.device) -> Mapping[str, Pool]:
    """The pool of each split."""
    return (
        _function_pools(recipe, device)
        if recipe.regresses
        else _pools_of_rows(recipe, cache, device)
    )


def _function_pools(recipe: Recipe, device: torch.device) -> dict[str, Pool]:
    faults = [
        Fault(f"tasks.{split}.{task.name}", f"must be one of {', '.join(FAMILIES)}.", task.function)
        for split, tasks in recipe.tasks.items()
        for task in tasks
        if task.function not in FAMILIES
    ]
    if faults:
        raise InputError(faults)
    return {
        split: function_pool(
            [task.name for task in tasks],
            [FAMILIES[task.function or ""] for task in tasks],
            shot=recipe.shot,
            query=recipe.query,
        ).to(device)
        for split, tasks in recipe.tasks.items()
    }


def _pools_of_rows(recipe: Recipe, cache: Path, device: torch.device) -> dict[str, TaskPool]:
    """All faults of all tasks are raised at once."""
    sources = Sources(recipe.datasets, cache)
    inputs = sources.inputs.to(device)
    pools: dict[str, TaskPool] = {}
    faults: list[Fault] = []
    for split, specs in recipe.tasks.items():
        tasks = []
        for i, spec in enumerate(specs):
            try:
                tasks.append(sources.task(spec, f"tasks.{split}.{spec.name}", recipe.seed + i))
            except InputError as error:
                faults += error.faults
        try:
            drawn = pool(tasks, inputs, way=recipe.way, shot=recipe.shot, query=recipe.query)
            pools[split] = drawn.to(device)
        except InputError as error:
            faults += [
                Fault(f.path.replace("tasks.", f"tasks.{split}.", 1), f.rule, f.found, f.remedy)
                for f in error.faults
            ]
    if faults:
        raise InputError(faults)
    return pools


def _adaptation(recipe: Recipe, cache: Path, device: torch.device) -> Objective:
    sources = Sources(recipe.datasets, cache)
    task = distilled_task(recipe, sources, cache).task.to(device)
    model = student(recipe, tuple(sources.inputs.shape[1:]), task.n_classes)
    return Adaptation(model, sources.inputs.to(device), task, recipe.batch)


PROGRAMS: Mapping[str, Callable[[Recipe, Path, torch.device], Objective]] = {
    "adaptation": _adaptation,
    "meta_training": _meta_training,
}
