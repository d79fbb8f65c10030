"""Writes a predictor as an ONNX model that has been checked against PyTorch.

The ONNX model takes what the model takes (`inputs`: ids, pixels, features or embeddings), or with
the encoder `input_ids` and `attention_mask`. It returns the probabilities of the classes, or
numbers. The first dimension of its inputs is the batch, of any size.
"""

import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from fewshot.errors.inputs import FewtuneError, input_error
from fewshot.functional import Params
from fewshot.models.pretrained import encoder as encoders
from fewshot.models.pretrained import vision
from orchestrator.results.predictor.as_onnx.onnx_session import Arrays, Measured, measure, run
from orchestrator.results.predictor.as_onnx.random_inputs import (
    TOKENS,
    random_inputs,
    random_texts,
    random_tokens,
)
from orchestrator.results.predictor.folder import PredictorParts

FILE = "model.onnx"
N_CHECKED = 1000
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_TOLERANCE = 1e-3  # the largest difference of a probability, or of a number in its units


@dataclass(frozen=True)
class OnnxModel:
    """A checked ONNX model. teacher: the encoder that it is compared with, if there is one."""

    path: Path
    inputs: Mapping[str, str]  # name -> type and shape
    difference: float  # the largest, on `N_CHECKED` inputs
    agreement: float  # share of the inputs with the same predicted class; 1 for numbers
    own: Measured
    teacher: Measured | None
    teacher_name: str


def write_onnx(parts: PredictorParts, folder: Path, *, with_encoder: bool = False) -> OnnxModel:
    """Write `model.onnx` to the folder of a predictor, after it has been checked.

    with_encoder: include the encoder of texts, for a model that reads its embeddings.

    Raises InputError if packages are missing or the predictor can't be written so, and FewtuneError
    if the ONNX model differs from PyTorch.
    """
    check_packages()
    _check(parts, with_encoder=with_encoder)
    module: nn.Module = _Head(parts)
    if with_encoder:
        module = _WithEncoder(_Encoder(str(parts.encoder)), module)
    drawn = (
        random_texts(parts, N_CHECKED)
        if with_encoder
        else {"inputs": random_inputs(parts, N_CHECKED)}
    )
    with tempfile.TemporaryDirectory(prefix="fewtune-") as scratch:
        made = Path(scratch) / FILE
        _export(module, drawn, made)
        found, expected = run(made, drawn), _by_torch(module, drawn)
        difference = float(np.abs(found - expected).max())
        scale = 1.0 if parts.classes else max(1.0, float(np.abs(expected).max()))
        if not difference <= _TOLERANCE * scale:
            raise FewtuneError(
                f"The ONNX model is not written: it differs from PyTorch by {difference:.3g}."
            )
        own = measure(made, {name: value[:1] for name, value in drawn.items()})
        name, teacher = _teacher(parts, Path(scratch))
        target = folder / FILE
        partial = target.with_suffix(".partial")
        partial.write_bytes(made.read_bytes())
        partial.replace(target)
    same = (found.argmax(1) == expected.argmax(1)).mean() if parts.classes else 1.0
    shapes = {k: f"{v.dtype} ({', '.join(_dimensions(k, v))})" for k, v in drawn.items()}
    return OnnxModel(target, shapes, difference, float(same), own, teacher, name)


def check_packages() -> None:
    """Raises InputError if the packages of the extra `onnx` are not installed."""
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        rule = "needs packages that are not installed."
        raise input_error("--onnx", rule, ", ".join(missing), "pip install 'fewtune[onnx]'")


def card_lines(made: OnnxModel, parts: PredictorParts) -> list[str]:
    """The section of a card about the ONNX model."""
    answer = "probabilities of the classes" if parts.classes else "numbers"
    lines = [
        f"`{FILE}` takes {' and '.join(f'`{k}`: {v}' for k, v in made.inputs.items())}; b is any "
        f"number of examples. It returns `outputs`: the {answer}.",
        _how_inputs_are_made(parts, made),
        "",
        f"On {N_CHECKED:,} random inputs it differs from PyTorch by at most {made.difference:.2g}"
        + (f"; the predicted class is the same for {100 * made.agreement:.1f} %." if parts.classes
           else "."),
        "",
        "| | size | one example, CPU time of one thread |",
        "| --- | --- | --- |",
        f"| `{FILE}` | {_size(made.own.size)} | {1000 * made.own.seconds:.3g} ms |",
    ]  # fmt: skip
    if made.teacher is None:
        return lines
    size, seconds = made.teacher.size, made.teacher.seconds
    return [
        *lines,
        f"| {made.teacher_name}, in ONNX | {_size(size)} | {1000 * seconds:.3g} ms |",
        "",
        f"The model has 1/{size / made.own.size:.0f} of the size, and "
        f"{seconds / made.own.seconds:.0f} times the speed, of this encoder on a text of "
        f"{TOKENS} tokens. Both figures are without the time to make the inputs from texts.",
    ]


def _how_inputs_are_made(parts: PredictorParts, made: OnnxModel) -> str:
    if parts.data.name != "text":
        return "The inputs are those of PyTorch: `Predictor.reader.inputs` makes them."
    if "input_ids" in made.inputs:
        return "The tokenizer in `encoder/` makes them from texts."
    kinds = {
        "ngrams": "ids of hashed n-grams, which `fewshot.tasks.text.ngrams` makes",
        "tokens": "ids of the tokenizer in `encoder/`, filled up with its padding id",
    }
    features = str(parts.data.options.get("features", "encoder"))
    made_by = kinds.get(features, "embeddings of the encoder in `encoder/`")
    return f"The inputs are {made_by}. In Python, `Predictor.reader.inputs(texts)` makes them."


class _Head(nn.Module):
    """The adapted model: inputs to probabilities (b, c), or to numbers (b, 1)."""

    def __init__(self, parts: PredictorParts) -> None:
        super().__init__()
        self._names = {f"p{i}": name for i, name in enumerate(parts.model.params)}
        for key, name in self._names.items():
            self.register_buffer(key, parts.model.params[name].detach().clone())
        self._function, self._scale = parts.model.function, parts.logit_scale
        self._classes = bool(parts.classes)

    def forward(self, inputs: Tensor) -> Tensor:
        params: Params = {name: getattr(self, key) for key, name in self._names.items()}
        outputs = self._scale * self._function(params, inputs)
        return outputs.softmax(-1) if self._classes else outputs


class _Encoder(nn.Module):
    """Embeddings (b, d) of length 1 of texts, as in `fewshot.models.pretrained.encoder.embed`."""

    def __init__(self, name: str) -> None:
        super().__init__()
        place = encoders.folder(name)
        self.model = encoders.load_model(place, attn_implementation="eager")

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        outputs = self.model(input_ids=input_ids, attention_mask=attention_mask)
        mask = attention_mask.unsqueeze(-1).to(outputs.last_hidden_state.dtype)
        return normalize((outputs.last_hidden_state * mask).sum(1) / mask.sum(1), dim=-1)


class _WithEncoder(nn.Module):
    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        found: Tensor = self.head(self.encoder(input_ids, attention_mask))
        return found


def _check(parts: PredictorParts, *, with_encoder: bool) -> None:
    if parts.model.support is not None:
        rule = "is for models whose predictions do not need the examples."
        raise input_error("--onnx", rule, parts.recipe.learner.name)
    texts = parts.data.name == "text" and not parts.ids
    if with_encoder and not texts:
        rule = "is for models that read embeddings of texts; this one has its encoder inside."
        rule = rule if parts.encoder else "is for models that read embeddings of texts."
        raise input_error("--with-encoder", rule, parts.data.name)


def _export(module: nn.Module, drawn: Arrays, path: Path) -> None:
    """Write the module with dynamic first dimensions; those of tokens have a dynamic length."""
    arguments = tuple(torch.from_numpy(value[:3]) for value in drawn.values())
    dynamic = torch.export.Dim.DYNAMIC
    shapes = tuple(
        {0: dynamic, 1: dynamic} if name in ("input_ids", "attention_mask") else {0: dynamic}
        for name in drawn
    )
    with _quietly(), torch.no_grad():
        torch.onnx.export(
            module.eval(),
            arguments,
            path,
            input_names=list(drawn),
            output_names=["outputs"],
            dynamic_shapes=shapes,
            dynamo=True,
            external_data=False,
            verbose=False,
        )


@contextmanager
def _quietly() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)


def _by_torch(module: nn.Module, drawn: Arrays) -> "np.ndarray[Any, Any]":
    tensors = [torch.from_numpy(value).split(100) for value in drawn.values()]
    with torch.no_grad():
        found: np.ndarray[Any, Any] = torch.cat(
            [module(*parts) for parts in zip(*tensors, strict=True)]
        ).numpy()
    return found


def _teacher(parts: PredictorParts, scratch: Path) -> tuple[str, Measured | None]:
    """The encoder of the predictor's inputs, or else that of its teacher; measured in ONNX."""
    named = parts.encoder
    if named is None and parts.recipe.teacher is not None:
        named = parts.recipe.teacher.options.get("encoder")
    if named is None:
        return "", None
    name = f"encoder `{Path(named).name}`"
    try:
        place = encoders.folder(str(named))
        if vision.reads_images(str(place)):
            return name, None
        tokenizer = encoders.load_tokenizer(place)
        drawn = random_tokens(len(tokenizer), tokenizer.pad_token_id or 0, 3)
        path = scratch / "teacher.onnx"
        _export(_Encoder(str(place)), drawn, path)
    except Exception as error:  # the model is written whether its teacher can be measured or not
        logging.getLogger(__name__).warning("teacher_not_measured error=%s", error)
        return name, None
    return name, measure(path, {key: value[:1] for key, value in drawn.items()})


def _dimensions(name: str, value: "np.ndarray[Any, Any]") -> list[str]:
    if name in ("input_ids", "attention_mask"):
        return ["b", "length"]
    return ["b", *map(str, value.shape[1:])]


def _size(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
