"""A small convolutional network for images.

Blocks of a 3x3 convolution, ReLU and 2x2 maximum pooling, then a linear layer. The blocks are those
of Vinyals et al., NeurIPS 2016, without their batch normalisation, by which the examples of an
episode would see one another, the queries too. Normalising each image alone instead was no gain.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch._C._functorch import TransformType, get_interpreter_stack

from fewshot.errors.inputs import input_error
from fewshot.functional import Params, linear_params
from fewshot.models.convolution.blocks import library_block, mapped_block, small_block


class Conv:
    """(b, h, w) or (b, channels, h, w) -> (b, n_out).

    width: channels of every block, >= 1; blocks: each halves the sides, which have to last.
    """

    head: tuple[str, ...] = ("weight", "bias")
    fills_processor = True

    def __init__(
        self, *, features: Sequence[int], width: int = 32, blocks: int = 3, n_out: int = 64
    ) -> None:
        if len(features) not in (2, 3) or min(features[-2:]) < 2**blocks:
            rule = f"of {blocks} blocks needs images of at least {2**blocks} pixels a side."
            raise input_error(
                "model", rule, tuple(features), "Give fewer `blocks` or larger images."
            )
        self.n_out, self._n_blocks = n_out, blocks
        self._channels = (1 if len(features) == 2 else features[0], *[width] * blocks)
        sides = [(features[-2] >> i, features[-1] >> i) for i in range(blocks + 1)]
        self._flat = self._channels[-1] * sides[-1][0] * sides[-1][1]
        shapes = zip(self._channels[:-1], sides[:-1], strict=True)
        self._small = [block for n, of in shapes if (block := small_block(n, *of))]  # the last ones

    def init(self, generator: torch.Generator) -> Params:
        params: Params = {}
        pairs = zip(self._channels[:-1], self._channels[1:], strict=True)
        for i, (n_in, n_out) in enumerate(pairs):
            kernel = torch.randn(n_out, n_in, 3, 3, generator=generator)
            params[f"kernel{i}"] = kernel * (2 / (9 * n_in)) ** 0.5  # He et al., ICCV 2015
            params[f"shift{i}"] = torch.zeros(n_out)
        params["weight"], params["bias"] = linear_params(self._flat, self.n_out, generator)
        return params

    def apply(self, params: Params, x: Tensor) -> Tensor:
        """As it is fastest where `x` is; all ways give the same, to rounding."""
        if x.is_cpu:
            return self.by_caches(params, x)
        return (self.by_windows if _is_mapped() else self.by_library)(params, x)

    def by_library(self, params: Params, x: Tensor) -> Tensor:
        """On a GPU, one model at a time."""
        return _head(params, self._pooled(params, x, self._n_blocks))

    def by_windows(self, params: Params, x: Tensor) -> Tensor:
        """On a GPU, many lanes at once."""
        x = _channels_last(x)
        for i in range(self._n_blocks):
            x = mapped_block(x, params[f"kernel{i}"], params[f"shift{i}"])
        return _head(params, x.movedim(-1, 1))

    def by_caches(self, params: Params, x: Tensor) -> Tensor:
        """On a processor: by the library as long as images are large, then by matrices."""
        n_large = self._n_blocks - len(self._small)
        x = self._pooled(params, x, n_large).permute(2, 3, 0, 1)
        for i, block in enumerate(self._small, start=n_large):
            x = block(x, params[f"kernel{i}"], params[f"shift{i}"])
        return _head(params, x.permute(2, 3, 0, 1))

    def _pooled(self, params: Params, x: Tensor, n_blocks: int) -> Tensor:
        """(b, channels, h, w) after the first blocks, by the library."""
        # A pixel's channels side by side, and so in all blocks: pooling goes several times as fast.
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
    """Whether this is called for many lanes or episodes at once.

    And not for a gradient of each, as in an inner loop: that of windows can't be mapped.
    """
    transforms = get_interpreter_stack() or []
    return [of.key() for of in transforms[-1:]] == [TransformType.Vmap]
