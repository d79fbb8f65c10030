"""Scales images with 8 bits per channel to inputs of models."""

from typing import TypeAlias

import torch
from torch import Tensor

Channels: TypeAlias = int  # 1 or 3

_CHUNK = 4096  # most images that are resized at once
_PIXELS = 1 << 26  # most numbers that are resized at once
_LUMA = (0.299, 0.587, 0.114)  # of red, green and blue, ITU-R BT.601, as in Pillow


def to_inputs(
    images: Tensor, size: int | None, *, crop: bool = False, channels: Channels | None = None
) -> Tensor:
    """Images (n, h, w) or (n, h, w, 3) uint8 as inputs (n, h, w) or (n, 3, h, w) in [0, 1].

    size: the sides of the inputs; by default the images are not resized.
    crop: cut out the central square of each image first.
    channels: of the inputs; by default those of the images. Greyscale images are repeated for
        three channels, and colour images are converted to their luma for one channel.
    """
    if images.dim() == 4:
        images = images.movedim(-1, 1)
    if crop:
        images = central_square(images)
    sides = images.shape[-2:] if size is None else (size, size)
    kept = channels or (3 if images.dim() == 4 else 1)
    inputs = torch.empty(len(images), *(() if kept == 1 else (3,)), *sides)
    some = max(1, min(_CHUNK, _PIXELS // max(1, images[0].numel())))
    # In chunks, so that no second copy of all images is in memory.
    for part, place in zip(images.split(some), inputs.split(some), strict=True):
        scaled = (
            part.float().div_(255) if part.shape[-2:] == sides else area_average(part, sides[0])
        )
        place.copy_(with_channels(scaled, kept))
    return inputs


def with_channels(images: Tensor, channels: Channels) -> Tensor:
    """Images (n, h, w) or (n, 3, h, w) float32 as (n, h, w) for 1 channel, (n, 3, h, w) for 3."""
    if images.dim() == 3 and channels == 3:
        return images.unsqueeze(1).expand(-1, 3, -1, -1)
    if images.dim() == 4 and channels == 1:
        return (images * torch.tensor(_LUMA).view(3, 1, 1)).sum(1)
    return images


def central_square(images: Tensor) -> Tensor:
    """The central square of images (..., h, w)."""
    h, w = images.shape[-2:]
    side = min(h, w)
    top, left = (h - side) // 2, (w - side) // 2
    return images[..., top : top + side, left : left + side]


def area_average(images: Tensor, size: int) -> Tensor:
    """Resize images (..., h, w) uint8 to (..., size, size) float32 in [0, 1] by area averaging."""
    rows = _shares(images.shape[-2], size)
    columns = _shares(images.shape[-1], size)
    return (rows @ images.float() @ columns.T).div_(255).clamp_(0, 1)


def _shares(n: int, size: int) -> Tensor:
    """(size, n): the share of each of n pixels in each of `size` equal intervals."""
    edges = torch.arange(size + 1, dtype=torch.float64) * n / size
    pixel = torch.arange(n, dtype=torch.float64)
    low = torch.maximum(edges[:-1, None], pixel)
    high = torch.minimum(edges[1:, None], pixel + 1)
    return ((high - low).clamp_(min=0) * size / n).float()
