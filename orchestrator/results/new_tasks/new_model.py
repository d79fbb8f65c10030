"""How an exported model learns a new task: with its own encoder, a student with its teacher."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewshot.errors.inputs import input_error
from fewshot.models.pretrained.encoder import ENCODERS
from fewshot.tasks.base import Dataset
from orchestrator.config.plan import plan_of
from orchestrator.config.sections.config import Config
from orchestrator.config.sections.parts import DatasetPart, TeacherPart
from orchestrator.record.home import Home
from trials.contract import Component, Recipe
from trials.lanes import checkpoint
from trials.programs.new_tasks.adapted_model import AdaptedModel, learned, restored
from trials.programs.new_tasks.apply_model import distil, scale_of_logits
from trials.programs.new_tasks.task_distance import (
    TRAINING_TASKS,
    embedding_of,
    load_task_means,
    unlike,
)
from trials.programs.teachers import TRAINED

_TITLES = "titles.csv"
# The options of drawn characters that images have too.
_OF_IMAGES, _OF_TEXTS = ("path", "size"), ("text_encoder", "text_width", "query")


@dataclass(frozen=True, eq=False)
class NewModel:
    """An adapted model with the recipe and the support that it was made from."""

    model: AdaptedModel
    recipe: Recipe
    hyperparameters: Mapping[str, float]
    scale: float  # of the logits
    unlike: str


def meta_learned(
    config: Config,
    folder: Path,
    support: tuple[Tensor, Tensor],
    *,
    regresses: bool,
    n_hidden: int = 0,
) -> NewModel:
    """The meta-trained model after it has learned from x (s, ...) and their labels.

    n_hidden: how many of the last features of an example queries do not show.
    """
    plan = plan_of(config)
    recipe = replace(plan.recipe, model=_model(plan.recipe.model, folder))
    hyperparameters, _ = plan.space.decode({})
    params = checkpoint.exported(folder / "model.safetensors")
    scale = 1.0
    if not regresses:
        scale = checkpoint.logit_scale(folder / "model.safetensors")
        scale = scale_of_logits(
            recipe, params, hyperparameters, support, prior=scale, n_hidden=n_hidden
        )
    model = learned(recipe, params, hyperparameters, support, regresses=regresses)
    known = load_task_means(folder / TRAINING_TASKS)
    embed = embedding_of(recipe, params, support[0]) if known is not None else None
    strange = None
    if known is not None and embed is not None:
        with torch.no_grad():
            strange = unlike(known, embed(support[0]))
    return NewModel(model, recipe, hyperparameters, scale, str(strange) if strange else "")


def learn(
    config: Config,
    folder: Path,
    part: Component,
    dataset: Dataset,
    support: tuple[np.ndarray, Tensor],
    classes: list[str],
    home: Home,
) -> NewModel:
    """The model after it has learned from rows (s,) of the dataset and their codes (s,)."""
    rows, codes = support
    if not config.adapts:
        x, hidden = dataset.inputs[rows], dataset.n_hidden
        return meta_learned(config, folder, (x, codes), regresses=False, n_hidden=hidden)
    plan = plan_of(config)
    recipe = replace(plan.recipe, model=_model(plan.recipe.model, folder))
    hyperparameters, weights = plan.space.decode({})
    if config.teacher is not None and config.teacher.source not in TRAINED:
        teacher = new_part(config.teacher, str(part.options["path"]), folder)
        recipe = replace(recipe, teacher=teacher)
    spec = replace(plan.spec(0, hyperparameters, weights, stage="final"), recipe=recipe)
    labelled = (torch.from_numpy(rows), codes)
    with tempfile.TemporaryDirectory(prefix="fewtune-") as scratch:
        _, params = distil(
            spec, part, labelled, tuple(classes), cache=home.cache, folder=Path(scratch)
        )
    shape = tuple(dataset.inputs.shape[1:])
    model = restored(recipe, params, {}, shape, len(classes), None, regresses=False)
    return NewModel(model, recipe, hyperparameters, 1.0, "")


def new_part(
    part: DatasetPart | TeacherPart, data: str, folder: Path, text: str | None = None
) -> Component:
    """The dataset part that reads `data` the way the model's training data was read.

    text: the table with the titles of the images, if they have some; by default a file in the
    folder of the images, which has the name of that of the training data.
    """
    options: dict[str, Any] = part.options() | {"path": data}
    if part.source == "table":
        options.pop("split", None)  # the new rows are all of one task
    source = part.source
    if source == "named_glyphs":  # as for glyphs; names are read as titles
        kept = {k: v for k, v in options.items() if k in (*_OF_IMAGES, *_OF_TEXTS)}
        source, options = "images", {"size": 14, "channels": 1, "text": _TITLES} | kept
    if source == "images" and "text" in options:
        options["text"] = str(text or Path(str(options["text"])).name)
    elif text is not None:
        raise input_error("--text", "is for models of images with texts.", text, "Remove it.")
    if source == "glyphs":  # training glyphs are drawn; new ones are read as images of that size
        kept = {key: options[key] for key in ("path", "size", "head") if key in options}
        source, options = "images", {"size": 14, "channels": 1} | kept
    return Component(name=source, options=_with_own_encoder(options, folder))


def _model(model: Component, folder: Path) -> Component:
    return replace(model, options=_with_own_encoder(model.options, folder))


def _with_own_encoder(options: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The options; an encoder's name is replaced by the folder of its copy in the export."""
    own = dict(options)
    for key in ENCODERS:
        name, copied = options.get(key), folder / key
        if name and not Path(str(name)).is_absolute() and copied.exists():
            own[key] = str(copied)
    return own
