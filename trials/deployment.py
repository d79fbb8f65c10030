"""Adapting a trained model to a task that nobody has seen before, once, outside of any search."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from fewshot.episodes import Episode
from fewshot.functional import Params
from fewshot.learners.teacher import fit_logistic
from trials.adaptation import Adaptation, NewTask
from trials.build import learner, student
from trials.contract import Recipe, TrialSpec
from trials.lanes import Lanes
from trials.pools import sort_of


def classify(
    recipe: Recipe,
    params: Params,
    hyperparameters: Mapping[str, float],
    support: tuple[Tensor, Tensor],
    x: Tensor,
) -> Tensor:
    """Logits (n, c) of x (n, *features), having learned from the support of a meta-trained recipe.

    The new task is like the first validation task that has classes.

    support: (s, *features) and labels (s,) in 0..c-1, each of which occurs.
    """
    support_x, support_y = support
    way = int(support_y.max()) + 1
    like = next(task for task in recipe.tasks["validation"] if not task.regresses)
    model = learner(recipe, tuple(x.shape[1:]), way, sort_of(recipe, like))
    hyper = {name: torch.tensor(value) for name, value in hyperparameters.items()}
    nobody = torch.zeros(1, len(x), dtype=torch.int64)  # the queries' labels are not known
    episode = Episode(support_x[None], support_y[None], x[None], nobody)
    return model.logits(params, episode, hyper)[0]


def distil(
    spec: TrialSpec,
    support: tuple[Tensor, Tensor],
    x: Tensor,
    teacher_x: tuple[Tensor, Tensor],
    folder: Path,
) -> tuple[Tensor, Params]:
    """Logits (n, c) of x (n, *features) by a student trained as `spec` says, and its parameters.

    teacher_x: the teacher's features of the support (s, d) and of x (n, d), on whose soft labels
    the student is trained. `folder` holds a checkpoint while it is.
    """
    support_x, support_y = support
    n_classes, s = int(support_y.max()) + 1, len(support_y)
    weight, bias = fit_logistic(teacher_x[0], support_y, n_classes)
    inputs = torch.cat([support_x, x])
    rows = torch.arange(len(inputs))
    queries = (rows[:s], support_y)
    task = NewTask(
        "new",
        n_classes,
        rows[:s],
        support_y,
        rows,
        torch.cat(teacher_x) @ weight + bias,
        {"search": queries, "final": queries, "test": queries},
    )
    model = student(spec.recipe, tuple(x.shape[1:]), n_classes)
    objective = Adaptation(model, inputs, task, spec.recipe.batch)
    lanes = Lanes(objective, lanes=1, folder=folder, device=torch.device("cpu"))
    lanes.admit(spec)
    lanes.advance()
    params = lanes.parameters(spec.key)
    return model.apply(params, x), params
