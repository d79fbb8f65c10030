"""Embeds images with a pretrained vision model.

The vector of an image is the one that the authors of the model compare images by:

- ViT, DeiT, DINO, DINOv2, DINOv3: the class token after the last layer norm (Dosovitskiy et al.,
  ICLR 2021; Caron et al., ICCV 2021; Oquab et al., TMLR 2024). The pooling layer of a ViT in
  transformers is not used, because most checkpoints do not contain its weights.
- CLIP: the projected embedding, in which images and texts were compared (Radford et al., ICML
  2021). SigLIP: the pooled output of its vision tower.
- Others, such as ResNet, ConvNeXt, Swin: the pooled output.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from fewshot.errors.inputs import input_error
from fewshot.models.pretrained.encoder import SAFELY, cached, digest_of_model, folder, loading

_BATCH = 32
_CACHE_VERSION = 1  # increase it when the embedding changes
WITH_CLASS_TOKEN = frozenset({"vit", "deit", "dinov2", "dinov2_with_registers", "dinov3_vit"})
# The vision tower of checkpoints that also have a text tower.
_TOWERS: Mapping[str, str] = MappingProxyType(
    {"clip": "CLIPVisionModelWithProjection", "siglip": "SiglipVisionModel"}
)
_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


def embed_images(
    digests: Sequence[bytes], image_of: Callable[[int], Image.Image], *, encoder: str, cache: Path
) -> Tensor:
    """Embeddings (n, d) float32 of length 1 of n >= 1 images.

    digests: one per image, equal for images with the same content. Such images are embedded once.
    image_of: opens image i. Greyscale images are repeated to three channels. The image processor of
        the encoder resizes and normalises the images.
    encoder: see `encoder.folder`.

    The first call embeds on the CPU and writes to `cache`. Later calls with the same model files
    and digests read from there. Both return the same values, rounded to 16 bits.

    Raises InputError if the encoder can't be found or loaded, or gives no vector per image.
    """
    place = folder(encoder)
    row = {digest: i for i, digest in reversed(list(enumerate(digests)))}  # of its first image
    distinct = sorted(row.values())
    key = digest_of_model(place, f"images {_CACHE_VERSION} {len(distinct)}")
    for i in distinct:
        key.update(hashlib.sha256(digests[i]).digest())
    path = cache / f"embeddings-{key.hexdigest()[:16]}.safetensors"
    embedded = cached(path, "embeddings", len(distinct), lambda: _embed(distinct, image_of, place))
    at = {i: k for k, i in enumerate(distinct)}
    return embedded.float()[torch.tensor([at[row[digest]] for digest in digests])]


def _embed(rows: Sequence[int], image_of: Callable[[int], Image.Image], place: Path) -> Tensor:
    processor, model = load_processor(place), load_model(place)
    parts = []
    for start in range(0, len(rows), _BATCH):
        images = [image_of(i) for i in rows[start : start + _BATCH]]
        parts.append(embed_with(processor, model, images, place))
    return torch.cat(parts)


def embed_with(processor: Any, model: Any, images: Sequence[Image.Image], place: Path) -> Tensor:
    """The result of `embed_images` in half precision, from a loaded processor and model.

    place: the folder of the model, for messages.
    """
    colour = [image.convert("RGB") for image in images]
    pixels = processor(images=colour, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        return F.normalize(_vectors(model, pixels, place), dim=-1).half()


def _vectors(model: Any, pixels: Tensor, place: Path) -> Tensor:
    """Vectors (b, d) of pixels (b, 3, h, w)."""
    rule = "must be a model that reads images alone, and gives one vector per image."
    try:
        outputs = model(pixel_values=pixels)
    except TypeError as error:  # it needs texts or other inputs too
        raise input_error("encoder", f"{rule} {error}", str(place)) from error
    if model.config.model_type in WITH_CLASS_TOKEN:
        found: Tensor | None = outputs.last_hidden_state[:, 0]
    else:
        pooled = getattr(outputs, "pooler_output", None)
        found = getattr(outputs, "image_embeds", pooled)
    if found is None:
        raise input_error("encoder", rule, str(place))
    return found.flatten(1)


def reads_images(encoder: str) -> bool:
    """Whether `encoder`, see `encoder.folder`, has an image processor."""
    place = folder(encoder)
    return any((place / name).is_file() for name in _PROCESSOR_FILES)


def save_pretrained(encoder: str, out: Path) -> None:
    """Write the encoder as a folder that `AutoModel` and `AutoImageProcessor` can load.

    Of a checkpoint with a text tower, only the vision tower is written.
    """
    place = folder(encoder)
    load_model(place).save_pretrained(out)
    load_processor(place).save_pretrained(out)


# Imported here, because importing transformers takes seconds and a full cache does not need it.
def load_processor(place: Path) -> Any:
    """The image processor in `place`."""
    with loading(place):
        from transformers import AutoImageProcessor  # it warns if torchvision is missing

        return AutoImageProcessor.from_pretrained(place, **SAFELY)


def load_model(place: Path, **options: Any) -> Any:
    """The vision model in `place`; options: of `from_pretrained`."""
    import transformers

    with loading(place):
        config = transformers.AutoConfig.from_pretrained(place, **SAFELY)
        name = _TOWERS.get(config.model_type)
        if name is not None:  # a vision tower beside a text tower
            both, config = config, config.vision_config
            if hasattr(both, "projection_dim"):
                config.projection_dim = both.projection_dim
        else:  # perhaps a vision tower that was saved alone
            name = next((n for n in config.architectures or () if n in _TOWERS.values()), None)
        made = transformers.AutoModel if name is None else getattr(transformers, name)
        model = made.from_pretrained(
            place, config=config, dtype=torch.float32, **SAFELY, **options
        ).eval()
    if model.config.model_type in WITH_CLASS_TOKEN and getattr(model, "pooler", None) is not None:
        model.pooler = None  # may have random weights, which an export must not contain
    return model
