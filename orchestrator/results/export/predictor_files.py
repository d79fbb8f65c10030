"""The files of an export that predictions need besides the model.

A meta-trained model gets the means of its training tasks, by which `fewtune adapt` says that a new
task is unlike them. A student of an adaptation search is a predictor as it is.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from fewshot.errors.inputs import InputError
from fewshot.functional import Params
from fewshot.tasks.datasets import load_dataset
from orchestrator.results.predictor.folder import PredictorParts, data_of, save_predictor
from trials.contract import Component, Recipe
from trials.programs.new_tasks.adapted_model import restored
from trials.programs.new_tasks.task_distance import TRAINING_TASKS, means_of_training_tasks

log = logging.getLogger(__name__)


def write_predictor_files(
    name: str,
    recipe: Recipe,
    hyperparameters: Mapping[str, float],
    params: Params,
    classes: Sequence[str],
    encoders: Mapping[str, str],
    *,
    cache: Path,
    folder: Path,
) -> None:
    """Write the files to the export in `folder`; none if the data can't be read any more.

    name, recipe, hyperparameters, params: of the model of the search. classes: of a student, in
    the order of its outputs. encoders: for each encoder in the export, its folder there.
    """
    if recipe.program == "worlds":  # a policy needs only the model
        return
    try:
        if recipe.program == "adaptation":
            encoded = {name: str(folder / place) for name, place in encoders.items()}
            parts = _student(name, recipe, hyperparameters, params, classes, encoded, cache)
            save_predictor(parts, folder, model_file=False)
        elif means := means_of_training_tasks(recipe, params, cache):
            means.save(folder / TRAINING_TASKS)
    except InputError as error:
        log.warning("export_without_data reason=%s", str(error).partition("\n")[0])


def _student(
    name: str,
    recipe: Recipe,
    hyperparameters: Mapping[str, float],
    params: Params,
    classes: Sequence[str],
    encoders: Mapping[str, str],
    cache: Path,
) -> PredictorParts:
    (task,) = recipe.tasks["validation"]
    part = recipe.datasets[task.dataset]
    dataset = load_dataset(part.name, part.options, cache)

    def moved(part: Component) -> Component:
        place = encoders.get(str(part.options.get("encoder")))
        return part if place is None else replace(part, options={**part.options, "encoder": place})

    recipe = replace(recipe, model=moved(recipe.model))
    shape = tuple(dataset.inputs.shape[1:])
    return PredictorParts(
        name=name,
        recipe=recipe,
        hyperparameters=hyperparameters,
        data=data_of(moved(part), dataset),
        features=shape,
        ids=not dataset.inputs.is_floating_point(),
        classes=tuple(classes),
        label=task.label,
        logit_scale=1.0,
        examples=len(classes) * _shots(recipe),
        model=restored(recipe, params, {}, shape, len(classes), None, regresses=False),
    )


def _shots(recipe: Recipe) -> int:
    return recipe.shot if isinstance(recipe.shot, int) else recipe.shot[1]
