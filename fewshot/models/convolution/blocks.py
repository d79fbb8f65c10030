"""A block of a convolutional network: 3x3 convolution, 2x2 maximum pooling and ReLU.

There are several ways, which give the same, to rounding. n_in and n_out are channels; a kernel is
(n_out, n_in, 3, 3), a shift (n_out,). ReLU after pooling is the same as before it, on a quarter.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d, pad

from fewshot.models.convolution.winograd import Winograd, falls

Block = Callable[[Tensor, Tensor, Tensor], Tensor]  # of images, kernel and shift

# Numbers that are pooled before there are more: a processor's caches keep them.
_CACHED = 1 << 19
# Channels from which windows cost more than a detour; and sides of images, with fewer channels and
# with as many, up to which a processor multiplies matrices sooner than it convolves.
_WIDE, _SIDES = 8, (16, 8)


def library_block(x: Tensor, kernel: Tensor, shift: Tensor) -> Tensor:
    """Images (b, n_in, h, w) -> (b, n_out, h / 2, w / 2)."""
    some = _CACHED // (len(kernel) * x.shape[-2] * x.shape[-1]) if x.is_cpu else len(x)
    parts = (conv2d(part, kernel, shift, padding=1) for part in x.split(max(1, some)))
    pooled = [max_pool2d(part, 2) for part in parts]
    return (pooled[0] if len(pooled) == 1 else torch.cat(pooled)).relu()


def mapped_block(x: Tensor, kernel: Tensor, shift: Tensor) -> Tensor:
    """The same of (b, h, w, n_in) -> (b, h / 2, w / 2, n_out), as one product of matrices.

    Those of many lanes are a batched product, where convolutions would be one of many groups, which
    takes a GPU about twice as long.
    """
    _, h, w, _ = x.shape
    found = _windows(x, 1) @ _four(kernel).flatten(0, 1).T
    # Not `amax`, whose gradient takes several passes more.
    return (found.view(-1, h // 2, w // 2, 4, len(kernel)).max(3)[0] + shift).relu()


def small_block(n_in: int, h: int, w: int) -> Block | None:
    """The same of (h, w, b, n_in) -> (h / 2, w / 2, b, n_out), if on a processor it is faster."""
    is_wide = n_in >= _WIDE
    if max(h, w) > _SIDES[is_wide]:
        return None
    return partial(wide_block, Winograd(h, w)) if is_wide else narrow_block


def narrow_block(x: Tensor, kernel: Tensor, shift: Tensor) -> Tensor:
    """A `small_block` of few channels."""
    h, w, b, _ = x.shape
    windows = _windows(x, 0)
    found = [windows @ matrix.T for matrix in falls(_four(kernel)).unbind()]
    return _largest(found, shift).view(h // 2, w // 2, b, len(kernel))


def wide_block(convolved: Winograd, x: Tensor, kernel: Tensor, shift: Tensor) -> Tensor:
    """A `small_block` of many channels."""
    return _largest(convolved(x, kernel), shift)


def _largest(found: Sequence[Tensor], shift: Tensor) -> Tensor:
    """ReLU of the largest of four, which are given as `falls`.

    max(a, b) - b is the ReLU of a - b, which takes fewer passes than a maximum and its gradient.
    """
    first, *others, last = found
    above = first.relu()
    for fall in others:
        above = (above + fall).relu_()
    return (above + last + shift).relu_()


def _windows(x: Tensor, rows: int) -> Tensor:
    """What each pooled number hangs on, 4x4 pixels (n, 16 n_in), four times as large as `x`.

    rows: the dimension of x (.., n_in) that is an image's rows; the next is its columns.
    """
    h, w = x.shape[rows : rows + 2]
    x = pad(x, (0, 0) * (2 - rows) + (1, 1 - w % 2, 1, 1 - h % 2))
    windows = x.unfold(rows, 4, 2).unfold(rows + 1, 4, 2)
    return windows.movedim(3, -1).reshape(-1, 16 * x.shape[-1])


def _four(kernel: Tensor) -> Tensor:
    """The convolutions of 4x4 pixels that are pooled, as matrices (4, n_out, 16 n_in)."""
    four = torch.stack([pad(kernel, (j, 1 - j, i, 1 - i)) for i in (0, 1) for j in (0, 1)])
    return four.movedim(2, -1).flatten(2)
