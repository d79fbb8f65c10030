"""A trial's state at its last rung, on disk: tensors as safetensors, its reports beside them.

The reports travel inside the checkpoint because the two must not come apart: whoever goes on from
a rung can repeat all that was reported up to it.
"""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import safetensors.numpy
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fewshot.errors.disk import naming_path
from fewshot.errors.inputs import FewtuneError, InputError, input_error
from fewshot.functional import Params
from fewshot.metrics import Estimate
from trials.contract import RungReport, TrialSpec

log = logging.getLogger(__name__)

# Under this name the metadata of a model's file tell how it was trained.
SPEC = "spec"
# And under this one, what calibrates its logits.
LOGIT_SCALE = "logit_scale"


# What reading a file raises that is truncated, empty, garbage, or not written by `save`.
_UNREADABLE = (OSError, SafetensorError, KeyError, TypeError, ValueError, AttributeError)


class Unreadable(FewtuneError):
    """A checkpoint that is damaged, or that is not there."""


def path_of(folder: Path, key: str) -> Path:
    """Where the checkpoint of the trial `key` lies."""
    return folder / f"{key}.safetensors"


def save(
    folder: Path, spec: TrialSpec, tensors: dict[str, Tensor], reports: Sequence[RungReport]
) -> Path:
    """Write the checkpoint, atomically: a reader sees the old one or the new one.

    It is forced to the disk first, as a rename may outlive a loss of power that the data does not.

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
        content = safetensors.torch.save(rows, metadata)
    else:  # the other looks long for tensors that share their memory
        arrays = {name: value.numpy() for name, value in rows.items()}
        content = safetensors.numpy.save(arrays, metadata)
    try:
        with naming_path(path), partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)  # on a full disk, half a file takes what space is left
    return path


def load(path: Path) -> tuple[str, dict[str, Tensor], tuple[RungReport, ...]]:
    """Identity of the spec, tensors and reports of the checkpoint at `path`; raises Unreadable."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        reports = tuple(_report(data) for data in json.loads(metadata["reports"]))
        return metadata["identity"], tensors, reports
    except _UNREADABLE as error:
        raise Unreadable(f"{path} is no readable checkpoint: {_reason(error)}.") from error


def usable(
    folder: Path, key: str, like: Mapping[str, Tensor], spec: TrialSpec | None = None
) -> tuple[dict[str, Tensor], tuple[RungReport, ...]] | None:
    """Tensors and reports of the checkpoint of the trial `key`, if a lane can go on from all.

    None if there is no checkpoint, or if it is not one of `spec` (None: any trial's will do). None
    too, with a warning in the log, if it is damaged: its trial is then trained again.

    like: for each name a tensor of the shape and dtype that the lane has.
    """
    path = path_of(folder, key)
    if not path.exists():
        return None
    try:
        found, tensors, reports = load(path)
        if spec is not None and found != identity(spec):
            return None
        wrong = _misfits(tensors, like)
        if spec is not None and not wrong:
            steps = {report.step for report in reports[-1:]}
            wrong = "" if steps == {int(tensors["step"])} else "its reports are not of its step"
        if wrong:
            raise Unreadable(f"{path} is no checkpoint of this model: {wrong}.")
    except Unreadable as error:
        log.warning("checkpoint_unreadable error=%s Its trial is trained again.", error)
        return None
    return tensors, reports


def _misfits(tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> str:
    """What is wrong with the tensors; nothing if they are as in `like`."""
    if missing := like.keys() - tensors.keys():
        return f"it has no {min(missing)}"
    for name, own in like.items():
        found = tensors[name]
        if (found.shape, found.dtype) != (own.shape, own.dtype):
            shapes = f"{tuple(found.shape)} {found.dtype}, not {tuple(own.shape)} {own.dtype}"
            return f"its {name} is {shapes}"
    return ""


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"its metadata have no {error}"
    return str(error).rstrip(".") or type(error).__name__


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
    """The model's parameters alone, by their own names; raises Unreadable."""
    tensors = load(path)[1]
    return {n.removeprefix("params."): v for n, v in tensors.items() if n.startswith("params.")}


def spec_of(path: Path) -> TrialSpec:
    """The trial whose checkpoint it is; raises Unreadable."""
    try:
        with safe_open(path, framework="pt") as file:
            return TrialSpec.from_json((file.metadata() or {})[SPEC])
    except _UNREADABLE as error:
        raise Unreadable(f"{path} is no readable checkpoint: {_reason(error)}.") from error


def exported(path: Path) -> Params:
    """The parameters of an exported model; raises InputError where `path` is not one."""
    try:
        found: Params = safetensors.torch.load_file(path)
        return found
    except _UNREADABLE as error:
        raise _no_export(path, error) from error


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
    except _UNREADABLE as error:
        why = "its file does not say how" if isinstance(error, KeyError) else _reason(error)
        rule = f"must be a model that this version of fewtune trained: {why}."
        remedy = "Export it again, or finish its search."
        raise input_error("teacher.path", rule, str(path), remedy) from error


def logit_scale(path: Path) -> float:
    """What calibrates the logits of the exported model at `path`; 1 where its file does not say.

    Raises InputError where the file can't be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return float((file.metadata() or {}).get(LOGIT_SCALE, 1.0))
    except _UNREADABLE as error:
        raise _no_export(path, error) from error


def _no_export(path: Path, error: Exception) -> InputError:
    rule = f"must be a model that `fewtune export` wrote: {_reason(error)}."
    return input_error(str(path), rule, None, "Export it again.")
