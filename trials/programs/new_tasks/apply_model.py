"""Adapts a trained model to a new task, outside a search."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from fewshot.calibration import fitted_scale
from fewshot.functional import Params
from fewshot.tasks.base import without_last
from trials.contract import Component, Recipe, Stage, TrialSpec
from trials.data.sources import Sources
from trials.errors import advance_or_raise
from trials.lanes.lanes import Lanes
from trials.programs.adaptation.adaptation import Adaptation, task_without_teacher
from trials.programs.factories import build_student
from trials.programs.new_tasks.adapted_model import Examples, learned
from trials.programs.teachers import teacher_of

_FOLDS = 10  # maximum number of folds; each holds out one example of each class


def scale_of_logits(
    recipe: Recipe,
    params: Params,
    hyperparameters: Mapping[str, float],
    support: Examples,
    *,
    prior: float = 1.0,
    n_hidden: int = 0,
) -> float:
    """The scale of the logits with which their softmax is calibrated on the task of the support.

    It is fitted by leaving out one example of each class at a time. If a class has only one
    example, it is the prior.

    support: (s, *features) and labels (s,); each of 0..c-1 occurs.
    prior: > 0, the scale that calibrated the logits of the validation tasks.
    n_hidden: how many of the last features of an example queries do not show, see `Dataset`.
    """
    left_out = [
        (
            learned(recipe, params, hyperparameters, seen, regresses=False).outputs(
                without_last(held_out[0], n_hidden)
            ),
            held_out[1],
        )
        for seen, held_out in _one_left_out(support)
    ]
    if not left_out:
        return prior
    logits, labels = (torch.cat(parts) for parts in zip(*left_out, strict=True))
    return float(fitted_scale(logits, labels, prior=prior).item())


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
