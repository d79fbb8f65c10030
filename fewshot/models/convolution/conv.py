"""A small convolutional network for images.

Blocks of a 3x3 convolution, ReLU and 2x2 maximum pooling, then a linear layer. The blocks are those
of Vinyals et al., NeurIPS 2016. Their batch normalisation is an option, because with it the output
of an example depends on the other examples of the episode, including queries. On small greyscale
images, normalising each image alone gave no improvement. With `blocks: 4, width: 64, norm: batch`
the blocks are the "4-conv" of the literature (Snell et al., NeurIPS 2017).
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch._C._functorch import TransformType, get_interpreter_stack
from torch.nn.functional import conv2d, max_pool2d

from fewshot.errors.inputs import check_sizes, input_error
from fewshot.functional import Params, linear_params
from fewshot.models.convolution.blocks import library_block, mapped_block, small_block
from fewshot.models.convolution.normalisation import Norm, check_norm, norm_params, normalise


class Conv:
    """(b, h, w) or (b, channels, h, w) -> (b, n_out).

    width: >= 1, the channels of each block. blocks: number of blocks; each halves the sides of the
    image, which must have at least 2^blocks pixels. norm: `none`, or the normalisation before ReLU,
    see `fewshot.models.convolution.normalisation`.
    """

    head: tuple[str, ...] = ("weight", "bias")
    fills_processor = True

    def __init__(
        self,
        *,
        features: Sequence[int],
        width: int = 32,
        blocks: int = 3,
        norm: Literal["none"] | Norm = "none",
        n_out: int = 64,
    ) -> None:
        check_norm(norm, ("none", "group", "batch"))
        check_sizes("model", width=width, blocks=blocks, n_out=n_out)
        if len(features) not in (2, 3) or min(features[-2:]) < 2**blocks:
            rule = f"with {blocks} blocks needs images of at least {2**blocks} pixels a side."
            raise input_error(
                "model", rule, tuple(features), "Use fewer `blocks` or larger images."
            )
        self.n_out, self._n_blocks, self._norm = n_out, blocks, norm
        self._channels = (1 if len(features) == 2 else features[0], *[width] * blocks)
        sides = [(features[-2] >> i, features[-1] >> i) for i in range(blocks + 1)]
        self._flat = self._channels[-1] * sides[-1][0] * sides[-1][1]
        shapes = zip(self._channels[:-1], sides[:-1], strict=True)
        # Only the last blocks can be small ones.
        self._small = [block for n, of in shapes if (block := small_block(n, *of))]

    def init(self, generator: torch.Generator) -> Params:
        params: Params = {}
        pairs = zip(self._channels[:-1], self._channels[1:], strict=True)
        for i, (n_in, n_out) in enumerate(pairs):
            kernel = torch.randn(n_out, n_in, 3, 3, generator=generator)
            params[f"kernel{i}"] = kernel * (2 / (9 * n_in)) ** 0.5  # He et al., ICCV 2015
            if self._norm == "none":
                params[f"shift{i}"] = torch.zeros(n_out)
            else:
                params |= norm_params(f"norm{i}", n_out)
        params["weight"], params["bias"] = linear_params(self._flat, self.n_out, generator)
        return params

    def apply(self, params: Params, x: Tensor) -> Tensor:
        """Use the fastest implementation for the device of `x`; they differ only by rounding."""
        if self._norm != "none":
            return self._normalised(params, x, self._norm)
        if x.is_cpu:
            return self.by_caches(params, x)
        return (self.by_windows if _is_mapped() else self.by_library)(params, x)

    def by_library(self, params: Params, x: Tensor) -> Tensor:
        """For a GPU and one model at a time."""
        return _head(params, self._pooled(params, x, self._n_blocks))

    def by_windows(self, params: Params, x: Tensor) -> Tensor:
        """For a GPU and many lanes at once."""
        x = _channels_last(x)
        for i in range(self._n_blocks):
            x = mapped_block(x, params[f"kernel{i}"], params[f"shift{i}"])
        return _head(params, x.movedim(-1, 1))

    def by_caches(self, params: Params, x: Tensor) -> Tensor:
        """For a CPU: library convolutions while images are large, then matrix products."""
        n_large = self._n_blocks - len(self._small)
        x = self._pooled(params, x, n_large).permute(2, 3, 0, 1)
        for i, block in enumerate(self._small, start=n_large):
            x = block(x, params[f"kernel{i}"], params[f"shift{i}"])
        return _head(params, x.permute(2, 3, 0, 1))

    def _normalised(self, params: Params, x: Tensor, norm: Norm) -> Tensor:
        # The faster memory layout on a CPU: for `batch` that of `_pooled`.
        x = _channels_last(x).contiguous() if norm == "batch" else _channels_last(x)
        x = x.movedim(-1, 1)
        for i in range(self._n_blocks):
            x = normalise(conv2d(x, params[f"kernel{i}"], padding=1), params, f"norm{i}", norm)
            x = max_pool2d(x, 2).relu()
        return _head(params, x)

    def _pooled(self, params: Params, x: Tensor, n_blocks: int) -> Tensor:
        """(b, channels, h, w) after the first `n_blocks` blocks, computed by the library."""
        # With the channels-last memory layout in all blocks, pooling is several times faster.
        x = _channels_last(x).contiguous().movedim(-1, 1)
        for i in range(n_blocks):
            x = library_block(x, params[f"kernel{i}"], params[f"shift{i}"])
        return x


def _head(params: Params, x: Tensor) -> Tensor:
    return x.flatten(1) @ params["weight"] + params["bias"]


def _channels_last(x: Tensor) -> Tensor:
    """(b, h, w) or (b, channels, h, w) -> (b, h, w, channels)."""
    return x.unsqueeze(-1) if x.dim() == 3 else x.movedim(1, -1)


def _is_mapped() -> bool:
    """Whether the innermost function transform is `vmap`, over lanes or episodes.

    It is not if a gradient is taken per episode, as in an inner loop. The gradient of `_windows`
    can't be mapped.
    """
    transforms = get_interpreter_stack() or []
    return [of.key() for of in transforms[-1:]] == [TransformType.Vmap]
