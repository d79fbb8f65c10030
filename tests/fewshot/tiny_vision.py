"""Vision models small enough for tests, as folders that transformers loads."""

from pathlib import Path

import torch

_SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
KINDS = ("vit", "dinov2", "clip", "siglip", "convnext")


def save(place: Path, kind: str = "vit") -> str:
    """A model of random weights for images of 32 x 32 pixels, with its image processor."""
    import transformers as t

    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "vit":
            model = t.ViTModel(t.ViTConfig(**_SMALL, initializer_range=0.5))
        elif kind == "dinov2":
            model = t.Dinov2Model(t.Dinov2Config(**_SMALL, initializer_range=0.5))
        elif kind == "convnext":
            sizes = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
            model = t.ConvNextModel(t.ConvNextConfig(**sizes, initializer_range=0.5))
        elif kind == "clip":
            words = {k: _SMALL[k] for k in list(_SMALL)[:4]} | {"vocab_size": 9}
            parts = {"text_config": words, "vision_config": _SMALL, "projection_dim": 24}
            model = t.CLIPModel(t.CLIPConfig(**parts, initializer_factor=20.0))
        else:
            words = {k: _SMALL[k] for k in list(_SMALL)[:4]} | {"vocab_size": 9}
            model = t.SiglipModel(t.SiglipConfig(text_config=words, vision_config=_SMALL))
    model.save_pretrained(place)
    sides = {"height": 32, "width": 32}
    t.ViTImageProcessor(size=sides).save_pretrained(place)
    return str(place)
