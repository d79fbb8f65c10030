"""Checkpoints: the state of a trial at its last rung, in a safetensors file.

The trial's reports are stored in the metadata of the same file, so that tensors and reports always
match. A trial that resumes from a rung can then repeat all its earlier reports. A trial that was
interrupted has a checkpoint of a later step, with the tensor `SINCE_REPORT`.
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

# Name of the tensor with what a trial has summed since its last report, see `Lane.since_report`.
SINCE_REPORT = "since_report"
# Metadata key of the spec that a model was trained with.
SPEC = "spec"
# Metadata key of the scale that calibrates the logits of a model.
LOGIT_SCALE = "logit_scale"


# Exceptions of reading a file that is truncated, empty, damaged, or not written by `save`.
_UNREADABLE = (OSError, SafetensorError, KeyError, TypeError, ValueError, AttributeError)


class Unreadable(FewtuneError):
    """A checkpoint is damaged or missing."""


def path_of(folder: Path, key: str) -> Path:
    """The path of the checkpoint of the trial `key`."""
    return folder / f"{key}.safetensors"


def save(
    folder: Path, spec: TrialSpec, tensors: dict[str, Tensor], reports: Sequence[RungReport]
) -> Path:
    """Write the checkpoint atomically: a reader sees either the old file or the new one.

    The data is flushed to disk before the rename. Otherwise the rename could survive a loss of
    power while the data is lost.

    tensors: on the CPU.
    """
    metadata = {
        "identity": identity(spec),
        SPEC: spec.to_json(),
        "reports": json.dumps(list(map(_data, reports))),
    }
    path = path_of(folder, spec.key)
    # A worker whose node was cut off may still train the trial while its next attempt does.
    partial = path.with_suffix(f".{spec.attempt}.partial" if spec.attempt else ".partial")
    rows = {name: value.contiguous() for name, value in tensors.items()}
    if torch.bfloat16 in {value.dtype for value in rows.values()}:  # a type that NumPy lacks
        content = safetensors.torch.save(rows, metadata)
    else:  # faster: the torch function searches for tensors that share memory
        arrays = {name: value.numpy() for name, value in rows.items()}
        content = safetensors.numpy.save(arrays, metadata)
    try:
        with naming_path(path), partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)  # on a full disk, a partial file takes the remaining space
    return path


def load(path: Path) -> tuple[str, dict[str, Tensor], tuple[RungReport, ...]]:
    """The spec's identity, the tensors and the reports of a checkpoint; raises Unreadable."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        reports = tuple(_report(data) for data in json.loads(metadata["reports"]))
        return metadata["identity"], tensors, reports
    except _UNREADABLE as error:
        raise Unreadable(f"{path} is not a readable checkpoint: {_reason(error)}.") from error


def load_resumable(
    folder: Path, key: str, like: Mapping[str, Tensor], spec: TrialSpec | None = None
) -> tuple[dict[str, Tensor], tuple[RungReport, ...]] | None:
    """The tensors and reports of the checkpoint of the trial `key`, if a lane can resume from it.

    None if there is no checkpoint, or if it was made with a spec other than `spec`. Also None, with
    a warning in the log, if it is damaged; the trial is then trained again from the start.

    like: for each name, a tensor with the shape and dtype that the lane has.
    spec: None accepts a checkpoint of any spec.
    """
    path = path_of(folder, key)
    if not path.exists():
        return None
    try:
        saved_identity, tensors, reports = load(path)
        if spec is not None and saved_identity != identity(spec):
            return None
        wrong = _misfits(tensors, like)
        if spec is not None and not wrong and SINCE_REPORT not in tensors:
            steps = {report.step for report in reports[-1:]}
            wrong = "" if steps == {int(tensors["step"])} else "its last report is of another step"
        if wrong:
            raise Unreadable(f"{path} is not a checkpoint of this model: {wrong}.")
    except Unreadable as error:
        log.warning("checkpoint_unreadable error=%s Its trial is trained again.", error)
        return None
    return tensors, reports


def _misfits(tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> str:
    """The first mismatch between the tensors and `like`, in words; empty if there is none."""
    if missing := like.keys() - tensors.keys():
        return f"it has no {min(missing)}"
    for name, own in like.items():
        saved = tensors[name]
        if (saved.shape, saved.dtype) != (own.shape, own.dtype):
            shapes = f"{tuple(saved.shape)} {saved.dtype}, not {tuple(own.shape)} {own.dtype}"
            return f"its {name} is {shapes}"
    return ""


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"its metadata have no {error}"
    return str(error).rstrip(".") or type(error).__name__


def identity(spec: TrialSpec) -> str:
    """The parts of a spec that decide its training; a trial resumes only if they are equal.

    The attempt is not one of them.
    """
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
    # Not `asdict`, which copies each number: that took a tenth of the time of a report.
    return {field.name: getattr(report, field.name) for field in fields(report)}


def _report(data: dict[str, object]) -> RungReport:
    data["score"] = Estimate(*data["score"])  # type: ignore[misc]
    per_task: dict[str, list[float]] = data["per_task"]  # type: ignore[assignment]
    data["per_task"] = {task: Estimate(*parts) for task, parts in per_task.items()}  # type: ignore[arg-type]
    return RungReport(**data)  # type: ignore[arg-type]


def parameters(path: Path) -> dict[str, Tensor]:
    """Only the model's parameters, without the prefix of their names; raises Unreadable."""
    tensors = load(path)[1]
    return {n.removeprefix("params."): v for n, v in tensors.items() if n.startswith("params.")}


def spec_of(path: Path) -> TrialSpec:
    """The spec of the trial that made a checkpoint; raises Unreadable."""
    try:
        with safe_open(path, framework="pt") as file:
            return TrialSpec.from_json((file.metadata() or {})[SPEC])
    except _UNREADABLE as error:
        raise Unreadable(f"{path} is not a readable checkpoint: {_reason(error)}.") from error


def exported(path: Path) -> Params:
    """The parameters of an exported model; raises InputError if `path` is not one."""
    try:
        params: Params = safetensors.torch.load_file(path)
        return params
    except _UNREADABLE as error:
        raise _no_export(path, error) from error


def trained(path: Path) -> tuple[TrialSpec, dict[str, Tensor]]:
    """The spec and the parameters in the file of a checkpoint or of an exported model.

    Raises InputError if the file is neither.
    """
    try:
        with safe_open(path, framework="pt") as file:
            spec = TrialSpec.from_json((file.metadata() or {})[SPEC])
            names = list(file.keys())
            own = [name for name in names if name.startswith("params.")] or names
            return spec, {name.removeprefix("params."): file.get_tensor(name) for name in own}
    except _UNREADABLE as error:
        missing = isinstance(error, KeyError)
        why = "its file has no record of its training" if missing else _reason(error)
        rule = f"must be a model that this version of fewtune trained: {why}."
        remedy = "Export it again, or finish its search."
        raise input_error("teacher.path", rule, str(path), remedy) from error


def logit_scale(path: Path) -> float:
    """The scale that calibrates the logits of an exported model; 1 if its file has none.

    Raises InputError if the file can't be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return float((file.metadata() or {}).get(LOGIT_SCALE, 1.0))
    except _UNREADABLE as error:
        raise _no_export(path, error) from error


def _no_export(path: Path, error: Exception) -> InputError:
    rule = f"must be a model that `fewtune export` wrote: {_reason(error)}."
    return input_error(str(path), rule, None, "Export it again.")
