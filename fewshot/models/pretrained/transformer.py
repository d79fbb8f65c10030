"""A pretrained transformer with a new classification head; all parameters are trained.

It is the AutoModelForSequenceClassification of an encoder such as BERT, as a function of its
parameters. Dropout is off even in training, so that a trial depends only on its seed.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from fewshot.errors.inputs import input_error
from fewshot.functional import Params
from fewshot.models.pretrained.encoder import SAFELY, folder, loading


class Transformer:
    """Token ids (b, length) int64 -> (b, n_out). The padding id is ignored.

    encoder: see `fewshot.models.pretrained.encoder.folder`. Its tokenizer must have made the ids.
    """

    fills_processor = True

    def __init__(self, *, features: Sequence[int], encoder: str, n_out: int = 2) -> None:
        if len(features) != 1:
            rule = "transformer reads token ids: the datasets need `features: tokens`."
            raise input_error("model", rule, tuple(features))
        self.n_out = n_out
        self._module, fresh = _pretrained(folder(encoder), n_out)
        self.head: tuple[str, ...] = tuple(fresh)
        self._padding = self._module.config.pad_token_id or 0

    def init(self, generator: torch.Generator) -> Params:
        params = {name: value.detach().clone() for name, value in self._module.named_parameters()}
        spread = getattr(self._module.config, "initializer_range", 0.02)
        for name in self.head:
            if params[name].dim() > 1:
                params[name].normal_(0, spread, generator=generator)
            else:
                params[name].fill_(0.0 if name.endswith("bias") else 1.0)
        return params

    def apply(self, params: Params, x: Tensor) -> Tensor:
        # A mask with one value per pair of tokens is used as it is. For other masks, transformers
        # inspects the values, which is not possible under vmap.
        outside = torch.where(x == self._padding, torch.finfo(torch.float32).min, 0.0)
        mask = outside[:, None, None, :].expand(-1, 1, x.shape[1], -1)
        buffers = {name: value.to(x.device) for name, value in self._module.named_buffers()}
        arguments = {"input_ids": x, "attention_mask": mask}
        logits: Tensor = functional_call(self._module, buffers | params, (), arguments).logits
        return logits

    def trim(self, x: Tensor) -> Tensor:
        used = (x != self._padding).flatten(0, -2).any(0).nonzero()
        return x[..., : int(used.max()) + 1] if len(used) else x[..., :1]


def save_pretrained(encoder: str, params: Params, labels: Sequence[str], out: Path) -> None:
    """Write a folder that `AutoModelForSequenceClassification` and `AutoTokenizer` load.

    encoder: the encoder that was fine-tuned, see `encoder.folder`. params: its fine-tuned
        parameters. labels: the class names, in the order of the logits.
    """
    from transformers import AutoTokenizer

    place = folder(encoder)
    module, _ = _pretrained(place, len(labels))
    module.load_state_dict(params, strict=False)  # not strict: `params` has no buffers
    module.config.id2label = dict(enumerate(labels))
    module.config.label2id = {label: i for i, label in enumerate(labels)}
    module.save_pretrained(out)
    AutoTokenizer.from_pretrained(place, **SAFELY).save_pretrained(out)


def _pretrained(place: Path, n_out: int) -> tuple[Any, list[str]]:
    """The module in evaluation mode, and the names of its parameters that are not pretrained."""
    from transformers import AutoModelForSequenceClassification

    with loading(place):
        module, loading_info = AutoModelForSequenceClassification.from_pretrained(
            place,
            num_labels=n_out,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            dtype=torch.float32,
            attn_implementation="eager",  # others do not work under vmap, or are slow there
            **SAFELY,
        )
    body = f"{module.base_model_prefix}."
    fresh = [
        name
        for name, _ in module.named_parameters()
        if name in loading_info["missing_keys"] or not name.startswith(body)
    ]
    return module.eval(), fresh
