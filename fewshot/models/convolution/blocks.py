"""A block of a convolutional network: 3x3 convolution, 2x2 maximum pooling, ReLU.

There are several implementations, which give the same result except for rounding. n_in and n_out
are numbers of channels. A kernel has the shape (n_out, n_in, 3, 3), a shift (n_out,). ReLU after
pooling equals ReLU before pooling, with a quarter of the work.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d, pad

from fewshot.models.convolution.winograd import Winograd, neighbour_differences

Block = Callable[[Tensor, Tensor, Tensor], Tensor]  # takes images, kernel and shift

# Numbers that are convolved before they are pooled; so many fit into the caches of a CPU.
_CACHED = 1 << 19
# From _WIDE input channels on, `wide_block` is faster than `narrow_block`. On a CPU these blocks
# are faster than the library up to images of _SIDES pixels (for fewer channels, for more).
_WIDE, _SIDES = 8, (16, 8)


def library_block(x: Tensor, kernel: Tensor, shift: Tensor) -> Tensor:
    """Images (b, n_in, h, w) -> (b, n_out, h / 2, w / 2)."""
    some = _CACHED // (len(kernel) * x.shape[-2] * x.shape[-1]) if x.is_cpu else len(x)
    parts = (conv2d(part, kernel, shift, padding=1) for part in x.split(max(1, some)))
    pooled = [max_pool2d(part, 2) for part in parts]
    return (pooled[0] if len(pooled) == 1 else torch.cat(pooled)).relu()


def mapped_block(x: Tensor, kernel: Tensor, shift: Tensor) -> Tensor:
    """(b, h, w, n_in) -> (b, h / 2, w / 2, n_out) as one matrix product.

    For many lanes, this becomes a batched matrix product. A convolution would become a grouped
    convolution, which takes about twice as long on a GPU.
    """
    _, h, w, _ = x.shape
    convolved = _windows(x, 1) @ _four(kernel).flatten(0, 1).T
    # Not `amax`, whose gradient needs several more passes.
    return (convolved.view(-1, h // 2, w // 2, 4, len(kernel)).max(3)[0] + shift).relu()


def small_block(n_in: int, h: int, w: int) -> Block | None:
    """A block (h, w, b, n_in) -> (h / 2, w / 2, b, n_out) for small images on a CPU.

    None if the library is faster at this size.
    """
    is_wide = n_in >= _WIDE
    if max(h, w) > _SIDES[is_wide]:
        return None
    return partial(wide_block, Winograd(h, w)) if is_wide else narrow_block


def narrow_block(x: Tensor, kernel: Tensor, shift: Tensor) -> Tensor:
    """A `small_block` for few channels."""
    h, w, b, _ = x.shape
    windows = _windows(x, 0)
    differences = [windows @ matrix.T for matrix in neighbour_differences(_four(kernel)).unbind()]
    return _largest(differences, shift).view(h // 2, w // 2, b, len(kernel))


def wide_block(convolved: Winograd, x: Tensor, kernel: Tensor, shift: Tensor) -> Tensor:
    """A `small_block` for many channels."""
    return _largest(convolved(x, kernel), shift)


def _largest(differences: Sequence[Tensor], shift: Tensor) -> Tensor:
    """ReLU of the maximum of four tensors plus `shift`.

    differences: the `neighbour_differences` of the four tensors.

    max(a, b) - b equals the ReLU of a - b, which needs fewer passes than a maximum with its
    gradient.
    """
    first, *others, last = differences
    above = first.relu()
    for difference in others:
        above = (above + difference).relu_()
    return (above + last + shift).relu_()


def _windows(x: Tensor, rows: int) -> Tensor:
    """The 4x4 pixels that each pooled number depends on, (n, 16 n_in); four times as large as `x`.

    rows: the dimension of x (..., n_in) of the image rows; the next one is the image columns.
    """
    h, w = x.shape[rows : rows + 2]
    x = pad(x, (0, 0) * (2 - rows) + (1, 1 - w % 2, 1, 1 - h % 2))
    windows = x.unfold(rows, 4, 2).unfold(rows + 1, 4, 2)
    return windows.movedim(3, -1).reshape(-1, 16 * x.shape[-1])


def _four(kernel: Tensor) -> Tensor:
    """The convolutions of 4x4 pixels that are pooled together, as matrices (4, n_out, 16 n_in)."""
    four = torch.stack([pad(kernel, (j, 1 - j, i, 1 - i)) for i in (0, 1) for j in (0, 1)])
    return four.movedim(2, -1).flatten(2)
