"""A trial's state at its last rung, on disk: tensors as safetensors, its reports beside them.

The reports travel inside the checkpoint because the two must not come apart: whoever goes on from
a rung can repeat all that was reported up to it.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import safetensors.numpy
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fewshot.faults import fault
from fewshot.metrics import Estimate
from trials.contract import RungReport, TrialSpec

# Under this name the metadata of a model's file tell how it was trained.
SPEC = "spec"
# And under this one, what calibrates its logits.
LOGIT_SCALE = "logit_scale"


def path_of(folder: Path, key: str) -> Path:
    """Where the checkpoint of the trial `key` lies."""
    return folder / f"{key}.safetensors"


def save(
    folder: Path, spec: TrialSpec, tensors: dict[str, Tensor], reports: Sequence[RungReport]
) -> Path:
    """Write the checkpoint, atomically: a reader sees the old one or the new one.

    tensors: on the CPU.
    """
    metadata = {
        "identity": identity(spec),
        SPEC: spec.to_json(),
        "reports": json.dumps(list(map(_data, reports))),
    }
    path = path_of(folder, spec.key)
    partial = path.with_suffix(".partial")
    rows = {name: value.contiguous() for name, value in tensors.items()}
    if torch.bfloat16 in {value.dtype for value in rows.values()}:  # which NumPy does not have
        safetensors.torch.save_file(rows, partial, metadata)
    else:  # the other looks long for tensors that share their memory
        arrays = {name: value.numpy() for name, value in rows.items()}
        safetensors.numpy.save_file(arrays, partial, metadata)
    os.replace(partial, path)
    return path


def load(path: Path) -> tuple[str, dict[str, Tensor], tuple[RungReport, ...]]:
    """Identity of the spec, tensors and reports of the checkpoint at `path`."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    reports = tuple(_report(data) for data in json.loads(metadata["reports"]))
    return metadata["identity"], tensors, reports


def identity(spec: TrialSpec) -> str:
    """What a checkpoint must agree in with the spec that goes on from it: all but the attempt."""
    return json.dumps(
        {
            "recipe": spec.recipe.fingerprint,
            "seed": spec.seed,
            "hyperparameters": dict(spec.hyperparameters),
            "task_weights": dict(spec.task_weights),
        },
        sort_keys=True,
    )


def _data(report: RungReport) -> dict[str, object]:
    # As `asdict` says it, which copies each number first: a tenth of what a report took.
    return {field.name: getattr(report, field.name) for field in fields(report)}


def _report(data: dict[str, object]) -> RungReport:
    data["score"] = Estimate(*data["score"])  # type: ignore[misc]
    per_task: dict[str, list[float]] = data["per_task"]  # type: ignore[assignment]
    data["per_task"] = {task: Estimate(*parts) for task, parts in per_task.items()}  # type: ignore[arg-type]
    return RungReport(**data)  # type: ignore[arg-type]


def parameters(path: Path) -> dict[str, Tensor]:
    """The model's parameters alone, by their own names."""
    tensors = load(path)[1]
    return {n.removeprefix("params."): v for n, v in tensors.items() if n.startswith("params.")}


def trained(path: Path) -> tuple[TrialSpec, dict[str, Tensor]]:
    """The spec and the model's parameters, of a checkpoint or of an exported model.

    Raises InputError where the file is neither.
    """
    try:
        with safe_open(path, framework="pt") as file:
            spec = TrialSpec.from_json((file.metadata() or {})[SPEC])
            names = list(file.keys())
            own = [name for name in names if name.startswith("params.")] or names
            return spec, {name.removeprefix("params."): file.get_tensor(name) for name in own}
    except (OSError, SafetensorError, KeyError, TypeError) as error:
        rule = "must be a model that this version of fewtune trained: its file does not say how."
        remedy = "Export it again, or finish its search."
        raise fault("teacher.path", rule, str(path), remedy) from error


def logit_scale(path: Path) -> float:
    """What calibrates the logits of the exported model at `path`; 1 where its file does not say."""
    with safe_open(path, framework="pt") as file:
        return float((file.metadata() or {}).get(LOGIT_SCALE, 1.0))
