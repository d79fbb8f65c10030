"""A pretrained transformer, all of whose parameters are trained.

With a new classification head it is the AutoModelForSequenceClassification of an encoder such as
BERT, as a function of its parameters. Without a head it embeds texts: the mean over the tokens,
scaled to a learned length. Dropout is off even in training, so that a trial depends only on its
seed.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from fewshot.errors.inputs import input_error
from fewshot.functional import Params
from fewshot.models.gain import initial_gain
from fewshot.models.pretrained.encoder import SAFELY, folder, loading
from fewshot.models.pretrained.modalities import attention_mask, load_text_encoder
from fewshot.models.pretrained.token_batches import (
    mean_embedding,
    similar_lengths,
    token_counts,
)


class Transformer:
    """Token ids (b, length) int64 -> (b, n_out). The padding id is ignored.

    encoder: see `fewshot.models.pretrained.encoder.folder`. Its tokenizer must have made the ids.
    scale: > 0, the initial root mean square distance of an embedding from the mean of its episode.
    spread: > 0, the same distance of embeddings of length 1. The builder measures it.
    n_out: the number of outputs of a new head; None to return embeddings.
    """

    fills_processor = True
    pretrained = True

    def __init__(
        self,
        *,
        features: Sequence[int],
        encoder: str,
        scale: float = 5.0,
        spread: float = 1.0,
        n_out: int | None = None,
    ) -> None:
        if len(features) != 1:
            rule = "transformer reads token ids: the datasets need `features: tokens`."
            raise input_error("model", rule, tuple(features))
        self._classes, self._gain = n_out, initial_gain(scale, spread)
        place = folder(encoder)
        fresh: list[str] = []
        if n_out is None:
            self._module = load_text_encoder(place)
            self._module.pooler = None  # not used: embeddings are means over tokens
        else:
            self._module, fresh = _pretrained(place, n_out)
        self.n_out: int = self._module.config.hidden_size if n_out is None else n_out
        self.head: tuple[str, ...] = ("gain",) if n_out is None else tuple(fresh)
        self._padding = self._module.config.pad_token_id or 0
        self._own = tuple(name for name, _ in self._module.named_parameters())

    def init(self, generator: torch.Generator) -> Params:
        params = {name: value.detach().clone() for name, value in self._module.named_parameters()}
        if self._classes is None:
            return params | {"gain": torch.tensor(self._gain)}
        spread = getattr(self._module.config, "initializer_range", 0.02)
        for name in self.head:
            if params[name].dim() > 1:
                params[name].normal_(0, spread, generator=generator)
            else:
                params[name].fill_(0.0 if name.endswith("bias") else 1.0)
        return params

    def apply(self, params: Params, x: Tensor) -> Tensor:
        real = x != self._padding
        buffers = {name: value.to(x.device) for name, value in self._module.named_buffers()}
        own = {name: params[name] for name in self._own}
        arguments = {"input_ids": x, "attention_mask": attention_mask(real)}
        outputs = functional_call(self._module, buffers | own, (), arguments)
        if self._classes is None:
            hidden: Tensor = outputs.last_hidden_state
            return params["gain"] * mean_embedding(hidden, real)
        logits: Tensor = outputs.logits
        return logits

    def apply_to_lanes(self, params: Params, x: Tensor) -> Tensor:
        """Outputs (l, b, n_out) of l lanes for x (l, b, length), or (1, b, length) for all lanes.

        The lanes are computed one after the other, in batches of texts of similar length.
        """
        outputs = []
        for lane in range(len(params[self.head[0]])):
            own = {name: value[lane] for name, value in params.items()}
            outputs.append(self._in_batches(own, x[min(lane, len(x) - 1)]))
        return torch.stack(outputs)

    def _in_batches(self, params: Params, x: Tensor) -> Tensor:
        """Outputs (b, n_out) of one lane for x (b, length)."""
        if x.is_meta:  # a forecast of memory; the lengths are not known
            return self.apply(params, x)
        lengths = token_counts(x, self._padding)
        batches = similar_lengths(lengths)
        found = [self.apply(params, x[rows, : int(lengths[rows].max())]) for rows in batches]
        return torch.cat(found).index_select(0, torch.cat(batches).argsort())


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


def save_embedding(encoder: str, params: Params, out: Path) -> None:
    """Write a folder that `AutoModel` and `AutoTokenizer` load, without a head.

    encoder: the encoder that was trained, see `encoder.folder`. params: its trained parameters.
    """
    from transformers import AutoTokenizer

    place = folder(encoder)
    module = load_text_encoder(place)
    module.load_state_dict(params, strict=False)  # not strict: the length is not a parameter of it
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
