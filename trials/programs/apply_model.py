"""Adapts a trained model to a new task, outside a search."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from fewshot.calibration import fitted_scale
from fewshot.episodes import Episode
from fewshot.errors.inputs import input_error
from fewshot.functional import Params
from fewshot.learners.embedding import compares_embedded, of_embedded
from trials.contract import Component, Recipe, Stage, TrialSpec
from trials.data.pools import task_kind_of
from trials.data.sources import Sources
from trials.errors import advance_or_raise
from trials.lanes.lanes import Lanes
from trials.programs.adaptation.adaptation import Adaptation, task_without_teacher
from trials.programs.factories import build_learner, build_student
from trials.programs.meta_training.scoring import embedded
from trials.programs.teachers import teacher_of

Examples = tuple[Tensor, Tensor]  # (n, *features), and their labels (n,)
_FOLDS = 10  # maximum number of folds; each holds out one example of each class


def classify(
    recipe: Recipe,
    params: Params,
    hyperparameters: Mapping[str, float],
    support: tuple[Tensor, Tensor],
    x: Tensor,
    *,
    scale: float = 1.0,
) -> Tensor:
    """Logits (n, c) of x (n, *features) from a meta-trained model that is adapted to the support.

    The new task is treated like the recipe's first validation task with classes. The logits are
    scaled so that their softmax is calibrated. If each class has more than one example, the scale
    is fitted by leaving out one example of each class at a time.

    support: (s, *features) and labels (s,); each of 0..c-1 occurs.
    scale: > 0, the scale that calibrated the logits of the validation tasks.
    """
    way = int(support[1].max()) + 1
    unknown = torch.zeros(len(x), dtype=torch.int64)  # the labels of the queries
    answer = partial(_answers, recipe, params, hyperparameters, way, regresses=False)
    left_out = [
        (answer(seen, (held_out[0], torch.zeros_like(held_out[1]))), held_out[1])
        for seen, held_out in _one_left_out(support)
    ]
    if left_out:
        logits, labels = (torch.cat(parts) for parts in zip(*left_out, strict=True))
        scale = fitted_scale(logits, labels, prior=scale).item()
    return scale * answer(support, (x, unknown))


def _one_left_out(support: Examples) -> Iterator[tuple[Examples, Examples]]:
    """Folds of the support: all but one example of each class, and the held-out examples.

    There are no folds if a class has only one example.
    """
    x, y = support
    # For each example, the number of earlier examples of its class.
    place = torch.tensor([int((y[:i] == label).sum()) for i, label in enumerate(y)])
    folds = min(_FOLDS, *torch.bincount(y).tolist())
    for fold in range(folds if folds > 1 else 0):
        out = place == fold
        yield (x[~out], y[~out]), (x[out], y[out])


def regress(
    recipe: Recipe,
    params: Params,
    hyperparameters: Mapping[str, float],
    support: tuple[Tensor, Tensor],
    x: Tensor,
) -> Tensor:
    """Predicted numbers (n,) of x (n, *features) from a meta-trained model adapted to the support.

    The new task is treated like the recipe's first validation task with numbers.

    support: (s, *features) and numbers (s,). Raises InputError if x does not have the shape of the
    model's inputs.
    """
    columns = support[0], support[1][:, None]
    query = x, torch.zeros(len(x), 1)  # the numbers of the queries are unknown
    way = recipe.max_way
    answers = _answers(recipe, params, hyperparameters, way, columns, query, regresses=True)
    return answers[:, 0]


def _answers(
    recipe: Recipe,
    params: Params,
    hyperparameters: Mapping[str, float],
    way: int,
    support: tuple[Tensor, Tensor],
    query: tuple[Tensor, Tensor],
    *,
    regresses: bool,
) -> Tensor:
    """Outputs (n, c) for the queries of one problem.

    The problem is treated like the first validation task that matches `regresses`.
    """
    like = next(task for task in recipe.tasks["validation"] if task.regresses == regresses)
    model = build_learner(recipe, tuple(query[0].shape[1:]), way, task_kind_of(recipe, like))
    fresh = model.init(torch.Generator())
    if missing := fresh.keys() - params.keys():
        rule = f"must hold the model that its config.yaml describes; it has no {min(missing)}."
        raise input_error("DIR", rule, None, "Export it again.")
    # Not checked for classes: a trained head may have more classes than this problem.
    if regresses and any(params[name].shape != value.shape for name, value in fresh.items()):
        rule = "must have as many feature columns as the data that the model was trained on."
        shape = tuple(query[0].shape[1:])
        raise input_error("--data", rule, shape, "Remove other numeric columns.")
    hyper = {name: torch.tensor(value) for name, value in hyperparameters.items()}
    episode = Episode(*(part[None] for part in (*support, *query)))
    if compares_embedded(model):
        stacked = {name: value.unsqueeze(0) for name, value in params.items()}
        embed = partial(embedded, model.embedding, stacked)
        episode = episode._replace(support_x=embed(support[0]), query_x=embed(query[0]))
        model = of_embedded(model)
    return model.logits(params, episode, hyper)[0]


def distil(
    spec: TrialSpec,
    data: Component,
    support: tuple[Tensor, Tensor],
    classes: tuple[str, ...],
    *,
    cache: Path,
    folder: Path,
) -> tuple[Tensor, Params]:
    """Train the student of `spec`; returns its logits (n, c) for all rows, and its parameters.

    With a teacher, the teacher learns from the support, and the student learns from the support
    and from the teacher's logits of all rows. Without a teacher the student learns from the
    support only.

    support: rows (s,) of `data`, and their labels (s,) as indices into `classes`.
    folder: the folder for the checkpoint of the student.
    """
    rows, codes = support
    sources = Sources({"data": data}, cache)
    recipe = replace(spec.recipe, datasets={"data": data})
    scored: dict[Stage, tuple[Tensor, Tensor]]
    scored = {"search": support, "final": support, "test": support}
    task = task_without_teacher("new", len(classes), rows, codes, scored)
    everything = torch.arange(len(sources.inputs))
    if recipe.teacher is not None:
        logits = teacher_of(recipe, sources, cache, classes=classes).labelled(rows, codes)
        task = replace(task, transfer=everything, teacher=logits)
    model = build_student(recipe, tuple(sources.inputs.shape[1:]), len(classes))
    objective = Adaptation(model, sources.inputs, task, recipe.batch, recipe.distillation)
    lanes = Lanes(objective, lanes=1, folder=folder, device=torch.device("cpu"))
    lanes.admit(spec)
    advance_or_raise(lanes)
    params = lanes.parameters(spec.key)
    with torch.no_grad():
        stacked = {name: value.unsqueeze(0) for name, value in params.items()}
        return objective.logits(stacked, everything)[0], params
