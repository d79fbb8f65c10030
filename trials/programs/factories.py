"""Builds the registered parts that a recipe names."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewshot.errors.inputs import ErrorDetail, InputError, input_error
from fewshot.errors.parts import as_input_error
from fewshot.kinds import REGRESSION
from fewshot.learners.base import Learner, PerTaskParameters
from fewshot.learners.learners import (
    LEARNERS,
    REGRESSORS,
    learner_named,
    learns_all_classes,
    supports_regression,
)
from fewshot.learners.metric.ridge import Ridge
from fewshot.learners.per_task import PerTask
from fewshot.learners.scaled import Scale, Scaled, scale_of
from fewshot.models.base import CachesStates, Model, OnStates
from fewshot.models.columns import OutputSlice
from fewshot.models.models import MODELS, SPREAD, is_pretrained
from fewshot.randomness import fold
from fewshot.registry import options_of, resolve
from fewshot.tasks.base import Pool
from fewshot.tasks.pool import TaskPool
from trials.contract import Component, Recipe
from trials.data.pools import TaskKind, task_kinds
from trials.data.scales import fixed_scales
from trials.programs.meta_training.scoring import embedded

# Random stream of the episodes that `spread_of` draws, and their number per task.
_SPREAD, _SPREAD_EPISODES = 4, 16


class BuildContext(NamedTuple):
    """What the data say about a model.

    spread: see `spread_of`; only initial parameters depend on it.
    inputs: (n, ...), the inputs whose states a model with a frozen part computes in advance.
    cache: the folder for these states.
    """

    spread: float = 1.0
    inputs: Tensor | None = None
    cache: Path | None = None


ALONE = BuildContext()


def build_part(
    registry: Mapping[str, Callable[..., Any]], component: Component, path: str, **more: Any
) -> Any:
    """The part that `component` names, built with its options; raises InputError if it can't be."""
    factory = resolve(registry, component.name, f"{path}.name")
    arguments = {**more, **component.options}
    try:
        inspect.signature(factory).bind(**arguments)
    except TypeError as error:
        raise input_error(path, f"has a wrong option: {error}.") from error
    with as_input_error(path, f"{component.name} can't be built"):
        return factory(**arguments)


def build_student(
    recipe: Recipe, features: tuple[int, ...], n_classes: int, context: BuildContext = ALONE
) -> Model:
    """The model of an adaptation recipe."""
    model: Model = build_part(MODELS, recipe.model, "model", features=features, n_out=n_classes)
    _cache_states(model, context)
    return model


def build_learner(
    recipe: Recipe,
    features: tuple[int, ...],
    way: int,
    task_kind: TaskKind | None = None,
    train: Pool | None = None,
    context: BuildContext = ALONE,
) -> Learner:
    """The learner of a meta-training recipe, for `way` classes or for regression.

    task_kind: the kind of the tasks to learn; by default the first kind of the recipe.
    train: the training tasks of this kind, if there are any.
    context: with inputs, a model with a frozen part takes hidden states, see `frozen_part`.
    """
    task_kind = task_kind or next(iter(task_kinds(recipe)))
    model = _model(recipe, features, way, task_kind, context)
    made = learner_named(recipe.learner.name)
    found: Learner
    if task_kind.regresses and not supports_regression(made):
        found = _regressor(recipe, model)
    else:
        own: dict[str, Any] = {"kind": REGRESSION} if task_kind.regresses else {}
        if learns_all_classes(made) and isinstance(train, TaskPool):
            own["classes"] = _class_counts(recipe, train)
        found = build_part(LEARNERS, recipe.learner, "learner", model=model, way=way, **own)
    if isinstance(found, PerTaskParameters) and found.per_task:
        found = _per_task(found, found.per_task, recipe, task_kind)
    device = torch.device("cpu") if context.inputs is None else context.inputs.device
    return with_scaling(found, task_kind, *fixed_scales(recipe, task_kind, device))


def spread_of(recipe: Recipe, train: Mapping[TaskKind, Pool], context: BuildContext) -> float:
    """Root mean square distance of training examples from the mean of their episode's support.

    Inputs are scaled as the model receives them; for a pretrained model, the distance is that of
    its embeddings of length 1. The result is 1 if the recipe's model has no option for it, or if
    the distance is 0 or not finite.
    """
    if SPREAD not in options_of(resolve(MODELS, recipe.model.name, "model.name"), ()):
        return 1.0
    squares = []
    for task_kind, pool in train.items():
        key = fold(torch.tensor(recipe.seed, device=pool.null_losses.device), _SPREAD)
        x = features_of(recipe, pool.draw(key, _SPREAD_EPISODES).support_x.flatten(0, 1), context)
        fixed, _ = fixed_scales(recipe, task_kind, x.device)
        if fixed is not None:
            x = fixed.to(x)
        elif task_kind.source == "table" and task_kind.scale == "support":
            x = scale_of(x, torch.ones_like(x[..., 0])).to(x)
        squares.append((x - x.mean(1, keepdim=True)).square().sum(-1).mean())
    found = float(torch.stack(squares).mean().sqrt()) if squares else 0.0
    return found if 0 < found < math.inf else 1.0


def features_of(recipe: Recipe, x: Tensor, context: BuildContext) -> Tensor:
    """The features (e, n, d) of the examples x (e, n, ...) of e episodes before training."""
    if not is_pretrained(recipe.model.name):
        return x.flatten(2)
    part = replace(recipe.model, options={**recipe.model.options, "scale": 1.0})
    model: Model = build_part(MODELS, part, "model", features=tuple(x.shape[2:]))
    _cache_states(model, context)
    params = {
        name: value.unsqueeze(0).to(x.device)
        for name, value in model.init(torch.Generator().manual_seed(0)).items()
    }
    with torch.no_grad():
        return embedded(model, params, x.flatten(0, 1)).view(*x.shape[:2], -1)


def _model(
    recipe: Recipe, features: tuple[int, ...], way: int, task_kind: TaskKind, context: BuildContext
) -> Model:
    """The model; if tasks of both kinds share it, only its outputs for `task_kind`.

    The outputs of a shared model are first the classes, then the number.
    """
    more: dict[str, Any] = {"features": features}
    if SPREAD in options_of(resolve(MODELS, recipe.model.name, "model.name"), ()):
        more[SPREAD] = context.spread
    kinds = {each.regresses for each in task_kinds(recipe)}
    if _scores_classes(recipe):
        more["n_out"] = way * (False in kinds) + (True in kinds)
    model: Model = build_part(MODELS, recipe.model, "model", **more)
    _cache_states(model, context)
    if isinstance(model, CachesStates) and context.inputs is not None:
        model = OnStates(model)
    if len(kinds) == 1 or not _scores_classes(recipe):
        return model
    return OutputSlice(model, way, 1) if task_kind.regresses else OutputSlice(model, 0, way)


def _cache_states(model: Model, context: BuildContext) -> None:
    if isinstance(model, CachesStates) and context.inputs is not None:
        assert context.cache is not None, "inputs come with a folder for their states"
        model.cache_states(context.inputs, context.cache)


def frozen_part(
    recipe: Recipe, features: tuple[int, ...], context: BuildContext
) -> CachesStates | None:
    """The model, if a learner built with `context` takes the hidden states of its frozen part."""
    if context.inputs is None:
        return None
    model: Model = build_part(MODELS, recipe.model, "model", features=features)
    return model if isinstance(model, CachesStates) else None


def _scores_classes(recipe: Recipe) -> bool:
    return learner_named(recipe.learner.name).model_scores_classes


def _class_counts(recipe: Recipe, train: TaskPool) -> tuple[int, ...]:
    if sum(not task_kind.regresses for task_kind in task_kinds(recipe)) > 1:
        rule = "can't learn classes of tables and classes of other datasets in one search."
        raise InputError([ErrorDetail("learner.name", rule, recipe.learner.name)])
    return train.class_counts


def _regressor(recipe: Recipe, model: Model) -> Learner:
    """The regression learner for a learner of classes only: ridge on the same embedding.

    Raises InputError if the learner has no embedding, or if all tasks are regression tasks.
    """
    if recipe.regresses or _scores_classes(recipe):
        rule = f"must be one of {', '.join(sorted(REGRESSORS))} to learn numbers."
        raise InputError([ErrorDetail("learner.name", rule, recipe.learner.name)])
    return Ridge(model=model, way=1, kind=REGRESSION)


def _per_task(found: Learner, own: tuple[str, ...], recipe: Recipe, task_kind: TaskKind) -> Learner:
    trained = [each for each, tasks in task_kinds(recipe).items() for _ in tasks["train"]]
    places = [i for i, each in enumerate(trained) if each == task_kind]
    peers = [i for i, each in enumerate(trained) if each.regresses == task_kind.regresses]
    return PerTask(
        found, own, n_tasks=len(trained), own_tasks=_slice(places), peers=_slice(peers or places)
    )


def _slice(places: list[int]) -> slice:
    """The slice of consecutive places; without places, the slice of everything."""
    return slice(places[0], places[-1] + 1) if places else slice(None)


def with_scaling(
    found: Learner,
    task_kind: TaskKind,
    of_features: Scale | None = None,
    of_numbers: Scale | None = None,
) -> Learner:
    """The learner, with scaling around it where tasks have units of their own.

    It scales the targets of regression tasks from datasets, and the features of tables: by the
    support set, or by the given scales.
    """
    if task_kind.source == "table" and task_kind.scale == "none":
        return found
    targets = task_kind.regresses and task_kind.source != "functions"
    features = task_kind.source == "table"
    if not features and not targets:
        return found
    return Scaled(found, features=of_features or features, targets=of_numbers or targets)
