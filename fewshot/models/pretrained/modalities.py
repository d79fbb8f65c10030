"""What a pretrained encoder reads: token ids, or pixels."""

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fewshot.errors.inputs import input_error
from fewshot.functional import unit
from fewshot.models.pretrained import vision
from fewshot.models.pretrained.encoder import SAFELY, loading
from fewshot.models.pretrained.token_batches import mean_embedding, token_counts


class Modality(Protocol):
    """The inputs of an encoder, and the embedding of an example from its last hidden states."""

    def arguments(self, x: Tensor) -> dict[str, Tensor]:
        """The arguments of the encoder for b examples."""

    def real(self, x: Tensor) -> Tensor:
        """Which states of b examples are not padding, (b, length) bool."""

    def counts(self, x: Tensor) -> Tensor:
        """Number (b,) of states of each example."""

    def pooled(self, hidden: Tensor, real: Tensor) -> Tensor:
        """Embeddings (b, width) of length 1 from the last hidden states (b, length, width)."""

    def sample(self) -> Tensor:
        """An example, (1, ...), that checks the parts of an encoder."""


class TokenIds:
    """Texts as token ids (b, length) int64; their embedding is the mean over the tokens."""

    def __init__(self, padding: int) -> None:
        self._padding = padding

    def arguments(self, x: Tensor) -> dict[str, Tensor]:
        return {"input_ids": x, "attention_mask": attention_mask(self.real(x))}

    def real(self, x: Tensor) -> Tensor:
        return x != self._padding

    def counts(self, x: Tensor) -> Tensor:
        return token_counts(x, self._padding)

    def pooled(self, hidden: Tensor, real: Tensor) -> Tensor:
        return mean_embedding(hidden, real)

    def sample(self) -> Tensor:
        return torch.arange(self._padding + 1, self._padding + 7)[None]


class Pixels:
    """Images (b, 3, h, w) or (b, h, w) in [0, 1]; their embedding is that of the class token.

    Images are resized (bilinear, antialiased) to the size of the encoder. They are rescaled and
    normalised as by its image processor, which has pixels from 0 to 255.
    """

    def __init__(self, place: Path, model: Any) -> None:
        processor = vision.load_processor(place)
        if model.config.model_type not in vision.WITH_CLASS_TOKEN:
            known = ", ".join(sorted(vision.WITH_CLASS_TOKEN))
            rule = f"must have a class token to be adapted: one of {known}."
            raise input_error("model.encoder", rule, model.config.model_type)
        crop = getattr(processor, "crop_size", None) if _does(processor, "center_crop") else None
        side = dict(crop or processor.size)
        height = side.get("height", side.get("shortest_edge"))
        self._size = (int(height or 224), int(side.get("width", height) or 224))
        self._most = 255 * processor.rescale_factor if _does(processor, "rescale") else 255.0
        normal = _does(processor, "normalize")
        mean, deviation = (processor.image_mean, processor.image_std) if normal else (0.0, 1.0)
        self._mean = torch.tensor(mean).view(-1, 1, 1)
        self._deviation = torch.tensor(deviation).view(-1, 1, 1)
        with torch.no_grad():
            outputs = model(**self.arguments(torch.zeros(1, 3, *self._size)))
        self._n: int = outputs.last_hidden_state.shape[1]

    def arguments(self, x: Tensor) -> dict[str, Tensor]:
        colour = x.unsqueeze(1).expand(-1, 3, -1, -1) if x.dim() == 3 else x
        if colour.shape[-2:] != self._size:
            colour = interpolate(colour, self._size, mode="bilinear", antialias=True)
        mean, deviation = self._mean.to(x), self._deviation.to(x)
        return {"pixel_values": ((self._most * colour - mean) / deviation).float()}

    def real(self, x: Tensor) -> Tensor:
        return torch.ones(len(x), self._n, dtype=torch.bool, device=x.device)

    def counts(self, x: Tensor) -> Tensor:
        return torch.full((len(x),), self._n, dtype=torch.int64, device=x.device)

    def pooled(self, hidden: Tensor, real: Tensor) -> Tensor:
        del real
        return unit(hidden[:, 0])

    def sample(self) -> Tensor:
        rng = torch.Generator().manual_seed(0)
        return torch.rand(1, 3, *self._size, generator=rng)


def _does(processor: Any, step: str) -> bool:
    """Whether an image processor takes a step, which not all of them know."""
    return bool(getattr(processor, f"do_{step}", None))


def attention_mask(real: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """An additive mask (b, 1, length, length) for states that are `real` (b, length).

    A mask with one value per pair of tokens is used as it is. For other masks, transformers
    inspects the values, which is not possible under vmap.
    """
    outside = torch.where(real, 0.0, torch.finfo(torch.float32).min).to(dtype)
    return outside[:, None, None, :].expand(-1, 1, real.shape[1], -1)


def load(place: Path) -> tuple[Any, Modality]:
    """The encoder in `place` without a head, in evaluation mode, and what it reads."""
    if vision.reads_images(str(place)):
        model = vision.load_model(place, attn_implementation="eager")
        return model, Pixels(place, model)
    model = load_text_encoder(place)
    return model, TokenIds(getattr(model.config, "pad_token_id", None) or 0)


def load_text_encoder(place: Path) -> Any:
    """The encoder of texts in `place` without a head, in evaluation mode."""
    from transformers import AutoModel

    with loading(place):
        # Other implementations of attention do not work under vmap, or are slow there.
        options = {"dtype": torch.float32, "attn_implementation": "eager", **SAFELY}
        return AutoModel.from_pretrained(place, **options).eval()
