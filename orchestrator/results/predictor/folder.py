"""The folder of a predictor: `predictor.json`, `model.safetensors`, and the encoder, if any.

`predictor.json` is written last and removed first, so a folder that has it is complete. Nothing in
the folder is executed: tensors are safetensors, everything else is JSON.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from fewshot.errors.inputs import ErrorDetail, InputError, input_error
from fewshot.models.pretrained import encoder, text_tower, vision
from fewshot.models.pretrained.encoder import ENCODERS
from fewshot.tasks.base import Dataset
from fewshot.tasks.files import write_text
from orchestrator.config.loading import refused_code
from trials.contract import Component, Recipe, TrialSpec
from trials.programs.new_tasks.adapted_model import AdaptedModel, restored

FILE, MODEL = "predictor.json", "model.safetensors"
_FORMAT = 1
_TEXTS = "./text_encoder"  # of the encoder of texts beside images
_OF_TASKS = ("split", "scale", "merge")  # options of a table that its features do not depend on
_KEPT = "kept_support."  # prefix of the tensors of a support that predictions need
_KEYS: Mapping[str, type | tuple[type, ...]] = {
    "format": int,
    "name": str,
    "classes": list,
    "label": str,
    "data": dict,
    "features": list,
    "ids": bool,
    "logit_scale": (int, float),
    "examples": int,
    "spec": dict,
}


@dataclass(frozen=True, eq=False, kw_only=True)
class PredictorParts:
    """What a predictor consists of.

    recipe, hyperparameters: of the model, which is adapted to one task.
    data: how examples are read: the name of a dataset and its options, without a path.
    features: the shape of one example. ids: whether it consists of int64 ids, not of float32.
    classes: the names of the outputs, in order; empty if the model predicts numbers.
    label: the column that the model learned to predict.
    logit_scale: > 0; with it, the softmax of the logits is calibrated.
    examples: the number of labelled examples that the model learned from.
    """

    name: str
    recipe: Recipe
    hyperparameters: Mapping[str, float]
    data: Component
    features: tuple[int, ...]
    ids: bool
    classes: tuple[str, ...]
    label: str
    logit_scale: float
    examples: int
    model: AdaptedModel

    @property
    def regresses(self) -> bool:
        return not self.classes

    @property
    def encoder(self) -> str | None:
        """The folder or name of the encoder that reads the examples, or None."""
        found = self.data.options.get("encoder")
        return None if found is None else str(found)


def data_of(part: Component, dataset: Dataset) -> Component:
    """How examples are read as those of `dataset`, which was loaded from `part`; without a path.

    Columns and channels that depended on the file are fixed.
    """
    options = {key: value for key, value in part.options.items() if key not in ("path", "labels")}
    if part.name == "table":
        options = {key: value for key, value in options.items() if key not in _OF_TASKS}
        options |= {"features": list(dataset.features), **dataset.fixed}
    if part.name == "images" and "encoder" not in options:
        options["channels"] = 3 if dataset.inputs.dim() == 4 else 1
    if dataset.text_width and part.name == "images":
        if "encoder" not in options:
            pixels = dataset.inputs.shape[1] - dataset.text_width - 1
            options["channels"] = pixels // int(options["size"]) ** 2
        if not dataset.query_text:  # texts are not read any more; their width stays
            options.pop("text_encoder", None)
        options["text_width"] = dataset.text_width
        options["text"] = Path(str(options["text"])).name
    return Component(name=part.name, options=options)


def is_predictor(folder: Path) -> bool:
    """Whether the folder holds a complete predictor."""
    return (folder / FILE).is_file()


def save_predictor(parts: PredictorParts, folder: Path, *, model_file: bool = True) -> None:
    """Write a predictor to `folder`; other files there are kept.

    model_file: False if the folder has the model's parameters already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).unlink(missing_ok=True)
    portable = _with_encoders(parts, _bring_encoders(parts, folder))
    if model_file:
        tensors = dict(parts.model.params)
        if parts.model.support is not None:
            tensors |= {_KEPT + "x": parts.model.support[0], _KEPT + "y": parts.model.support[1]}
        own = {name: value.detach().clone().contiguous() for name, value in tensors.items()}
        safetensors.torch.save_file(own, folder / MODEL, {"format": "pt"})
    write_text(folder / FILE, json.dumps(_data(portable), indent=2))


def _data(parts: PredictorParts) -> dict[str, Any]:
    # The data of the search are not needed, and their paths are not public.
    recipe = replace(
        parts.recipe,
        datasets={name: _scale_alone(part) for name, part in parts.recipe.datasets.items()},
        teacher=_named_teacher(parts.recipe.teacher),
    )
    spec = TrialSpec(
        number=0,
        stage="final",
        seed=0,
        recipe=recipe,
        hyperparameters=parts.hyperparameters,
        task_weights={},
        rungs=(),
    )
    return {
        "format": _FORMAT,
        "name": parts.name,
        "kind": "regression" if parts.regresses else "classification",
        "classes": parts.classes,
        "label": parts.label,
        "data": asdict(parts.data),
        "features": parts.features,
        "ids": parts.ids,
        "logit_scale": parts.logit_scale,
        "examples": parts.examples,
        "spec": json.loads(spec.to_json()),
        "versions": {name: version(name) for name in ("fewtune", "torch", "transformers")},
    }


def _scale_alone(part: Component) -> Component:
    """The dataset with nothing but its scale, which the model needs."""
    return replace(part, options={k: v for k, v in part.options.items() if k == "scale"})


def _named_teacher(teacher: Component | None) -> Component | None:
    """The teacher with nothing but its encoder, if that is no path; an ONNX model is compared."""
    name = str(teacher.options.get("encoder") or "") if teacher is not None else ""
    if teacher is None or not name or Path(name).is_absolute() or name[0] in "./~$":
        return None
    return Component(name=teacher.name, options={"encoder": name})


def _bring_encoders(parts: PredictorParts, folder: Path) -> dict[str, str]:
    """Copy the encoders into the folder; returns the place of each there."""
    options = (parts.data.options, parts.recipe.model.options)
    named = dict.fromkeys(str(o["encoder"]) for o in options if o.get("encoder"))
    places = {n: f"./encoder{'' if i == 0 else f'_{i + 1}'}" for i, n in enumerate(named)}
    for name, place in places.items():
        if (folder / place).resolve() == Path(name).resolve():
            continue  # the folder is an export that has its encoder already
        saved = vision if vision.reads_images(name) else encoder
        saved.save_pretrained(name, folder / place)
    texts = str(parts.data.options.get("text_encoder") or "")
    if texts and (folder / _TEXTS).resolve() != Path(texts).resolve():
        text_tower.save_pretrained(texts, folder / _TEXTS)
    return places


def _with_encoders(
    parts: PredictorParts, places: Mapping[str, str], texts: str = _TEXTS
) -> PredictorParts:
    """The parts with other names of their encoders; `texts` is that of texts beside images."""

    def moved(part: Component) -> Component:
        name = part.options.get("encoder")
        if name is None:
            return part
        return replace(part, options={**part.options, "encoder": places[str(name)]})

    recipe = replace(parts.recipe, model=moved(parts.recipe.model))
    data = moved(parts.data)
    if data.options.get("text_encoder"):
        data = replace(data, options={**data.options, "text_encoder": texts})
    return replace(parts, recipe=recipe, data=data)


def load_predictor(folder: Path, *, trust_code: bool = False) -> PredictorParts:
    """Read a predictor.

    Raises InputError with all errors in `predictor.json`, if the folder is not a predictor, or if
    it names code and `trust_code` is false.
    """
    data = _read(folder)
    if not trust_code and (details := refused_code(_named_parts(data))):
        raise InputError(details)
    try:
        spec = TrialSpec.from_json(json.dumps(data["spec"]))
        own = Component(name=str(data["data"]["name"]), options=dict(data["data"]["options"]))
        features = tuple(int(n) for n in data["features"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(folder / FILE, str(error)) from error
    places = _encoders_inside(folder, (own, spec.recipe.model))
    tensors = _tensors(folder / MODEL)
    support = {n.removeprefix(_KEPT): tensors.pop(n) for n in list(tensors) if n.startswith(_KEPT)}
    classes = tuple(map(str, data["classes"]))
    empty = AdaptedModel(lambda params, x: x, {})
    parts = PredictorParts(
        name=data["name"],
        recipe=spec.recipe,
        hyperparameters=spec.hyperparameters,
        data=own,
        features=features,
        ids=data["ids"],
        classes=classes,
        label=data["label"],
        logit_scale=float(data["logit_scale"]),
        examples=data["examples"],
        model=empty,
    )
    parts = _with_encoders(parts, places, str((folder / _TEXTS).resolve()))
    try:
        model = restored(
            parts.recipe,
            tensors,
            spec.hyperparameters,
            features,
            len(classes) or 1,
            (support["x"], support["y"]) if support else None,
            regresses=parts.regresses,
        )
        one = torch.zeros(1, *features, dtype=torch.int64 if parts.ids else torch.float32)
        model.outputs(one)
    except KeyError as error:
        raise _damaged(folder / MODEL, f"it has no {error}") from error
    except (RuntimeError, IndexError, TypeError) as error:
        raise _damaged(folder / MODEL, str(error).partition("\n")[0]) from error
    return replace(parts, model=model)


def _read(folder: Path) -> dict[str, Any]:
    """The checked content of `predictor.json`."""
    path = folder / FILE
    if not path.is_file():
        rule = "must be a predictor: a folder that `fewtune adapt` wrote, or an exported student."
        remedy = "Check the path."
        if (folder / "config.yaml").is_file() and (folder / MODEL).is_file():
            remedy = (
                "This export must first learn a task: `fewtune adapt DIR --data EXAMPLES --out "
                "mine`, then `fewtune predict mine`. An older export must be written again."
            )
        raise input_error("DIR", rule, str(folder), remedy)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(data, dict):
        raise _damaged(path, "it is not a JSON object")
    details = [
        ErrorDetail(f"{path}:{key}", "must be there.")
        if key not in data
        else ErrorDetail(f"{path}:{key}", "has a value of the wrong type.", data[key])
        for key, kind in _KEYS.items()
        if not isinstance(data.get(key), kind)
    ]
    if isinstance(data.get("format"), int) and data["format"] != _FORMAT:
        rule = f"must be {_FORMAT}, the format that this version of fewtune reads."
        details.append(ErrorDetail(f"{path}:format", rule, data["format"], "Adapt it again."))
    if not (folder / MODEL).is_file():
        details.append(ErrorDetail(str(folder / MODEL), "must be there."))
    if details:
        raise InputError(details)
    return data


def _named_parts(data: Mapping[str, Any]) -> dict[str, Any]:
    """The names in a predictor as those of a config, which `refused_code` checks."""
    spec = data["spec"].get("recipe")
    recipe = spec if isinstance(spec, dict) else {}

    def named(part: Any) -> dict[str, Any]:
        if not isinstance(part, dict) or not isinstance(part.get("options", {}), dict):
            return {}
        return {**part.get("options", {}), "name": part.get("name")}

    own = named(data["data"])
    return {
        "model": named(recipe.get("model")),
        "learner": named(recipe.get("learner")),
        "teacher": named(recipe.get("teacher")),
        "datasets": {"data": {**own, "source": own.get("name")}},
    }


def _encoders_inside(folder: Path, parts: tuple[Component, ...]) -> dict[str, str]:
    """The absolute path of each encoder; raises InputError if one is not inside the folder."""
    names = [str(p.options[key]) for p in parts for key in ENCODERS if p.options.get(key)]
    places = {name: (folder / name).resolve() for name in names}
    outside = [
        ErrorDetail(f"{folder / FILE}:encoder", "must be a folder inside the predictor.", name)
        for name, place in places.items()
        if not place.is_relative_to(folder.resolve()) or not place.is_dir()
    ]
    if outside:
        raise InputError(outside)
    return {name: str(place) for name, place in places.items()}


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        found: dict[str, Tensor] = safetensors.torch.load_file(path)
        return found
    except (OSError, SafetensorError, ValueError) as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, why: str) -> InputError:
    rule = f"must be a file of a predictor: {why.rstrip('.')}."
    return input_error(str(path), rule, None, "Adapt or export the model again.")
