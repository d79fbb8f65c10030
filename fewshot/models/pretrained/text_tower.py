"""Embeds texts with a text encoder, or with the text tower of CLIP or SigLIP.

The vector of a text is:

- CLIP: the projected embedding, in which texts and images were compared (Radford et al., ICML
  2021). SigLIP: the pooled output of its text tower. Vectors of images of the same model are in the
  same space, see `fewshot.models.pretrained.vision`.
- Other models: the mean over the tokens, see `fewshot.models.pretrained.encoder`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot.models.pretrained import encoder as encoders
from fewshot.models.pretrained.encoder import SAFELY, cached, digest_of_model, folder, loading

_BATCH = 64
_CACHE_VERSION = 1  # increase it when the embedding changes
# The text tower of checkpoints that also have a vision tower.
_TOWERS: Mapping[str, str] = MappingProxyType(
    {"clip": "CLIPTextModelWithProjection", "siglip": "SiglipTextModel"}
)


def embed_texts(texts: Sequence[str], *, encoder: str, cache: Path) -> Tensor:
    """Embeddings (n, d) float32 of length 1 of n >= 1 texts, in half precision from `cache`.

    Raises InputError if the encoder can't be found or loaded.
    """
    place = folder(encoder)
    if _tower(place) is None:
        return encoders.embed(texts, encoder=encoder, cache=cache)
    key = digest_of_model(place, f"texts {_CACHE_VERSION} {len(texts)}")
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        key.update(len(data).to_bytes(8, "little") + data)
    path = cache / f"embeddings-{key.hexdigest()[:16]}.safetensors"
    return cached(path, "embeddings", len(texts), lambda: _embed(texts, place)).float()


def save_pretrained(encoder: str, out: Path) -> None:
    """Write a text encoder as a folder that `embed_texts` can load.

    Of a checkpoint with a vision tower, only the text tower is written.
    """
    place = folder(encoder)
    if _tower(place) is None:
        encoders.save_pretrained(encoder, out)
    else:
        _load(place).save_pretrained(out)
        encoders.load_tokenizer(place).save_pretrained(out)


def _embed(texts: Sequence[str], place: Path) -> Tensor:
    tokenizer, model = encoders.load_tokenizer(place), _load(place)
    longest = int(model.config.max_position_embeddings)
    # SigLIP was trained on texts that are filled up to its full length.
    padding = "max_length" if model.config.model_type.startswith("siglip") else True
    parts = []
    for start in range(0, len(texts), _BATCH):
        some = list(texts[start : start + _BATCH])
        tokens = tokenizer(
            some, truncation=True, max_length=longest, padding=padding, return_tensors="pt"
        )
        arguments = {"input_ids": tokens["input_ids"]}
        if padding is True:
            arguments["attention_mask"] = tokens["attention_mask"]
        with torch.no_grad():
            outputs = model(**arguments)
        pooled = getattr(outputs, "text_embeds", None)
        parts.append(F.normalize(outputs.pooler_output if pooled is None else pooled, dim=-1))
    return torch.cat(parts).half()


def _tower(place: Path) -> str | None:
    """The class of the text tower, for checkpoints of two towers or of their text tower alone."""
    import transformers

    with loading(place):
        config = transformers.AutoConfig.from_pretrained(place, **SAFELY)
    named = _TOWERS.get(config.model_type)
    return named or next((n for n in config.architectures or () if n in _TOWERS.values()), None)


def _load(place: Path) -> Any:
    import transformers

    name = _tower(place)
    assert name is not None, "only towers are loaded here"
    with loading(place):
        config = transformers.AutoConfig.from_pretrained(place, **SAFELY)
        if config.model_type in _TOWERS:  # beside a vision tower
            both, config = config, config.text_config
            if hasattr(both, "projection_dim"):
                config.projection_dim = both.projection_dim
        model = getattr(transformers, name).from_pretrained(
            place, config=config, dtype=torch.float32, **SAFELY
        )
        return model.eval()
