"""A small convolutional network for images.

Blocks of a 3x3 convolution, ReLU and 2x2 maximum pooling, then a linear layer. The blocks are those
of Vinyals et al., NeurIPS 2016, without their batch normalisation, by which the examples of an
episode would see one another, the queries too. Normalising each image alone instead was no gain.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d, pad

from fewshot.faults import fault
from fewshot.functional import Params, linear_params
from fewshot.lane_by_lane import is_mapped, lane_by_lane

# Outputs of a convolution that a processor's caches keep until they are pooled.
_CACHED = 1 << 19


def _block(x: Tensor, kernel: Tensor, shift: Tensor) -> Tensor:
    """Images (b, n_in, h, w) -> (b, n_out, h / 2, w / 2)."""
    some = _CACHED // (len(kernel) * x.shape[-2] * x.shape[-1]) if x.is_cpu else len(x)
    parts = (conv2d(part, kernel, shift, padding=1) for part in x.split(max(1, some)))
    pooled = [max_pool2d(part, 2) for part in parts]
    # ReLU after pooling is the same as before it, on a quarter.
    return (pooled[0] if len(pooled) == 1 else torch.cat(pooled)).relu()


def mapped_block(x: Tensor, kernel: Tensor, shift: Tensor) -> Tensor:
    """The same of (b, h, w, n_in) -> (b, h / 2, w / 2, n_out), as one product of matrices.

    All that a pooled number hangs on are 4x4 pixels, for which the four convolutions that are
    pooled are a matrix. Those of many lanes are a batched product, where convolutions would be one
    of many groups, which takes a GPU about twice as long. Windows are four times as large as `x`.
    """
    n_out, n_in = kernel.shape[:2]
    h, w = (side // 2 for side in x.shape[1:3])
    x = pad(x, (0, 0, 1, 1 - x.shape[2] % 2, 1, 1 - x.shape[1] % 2))
    windows = x.unfold(1, 4, 2).unfold(2, 4, 2).movedim(3, -1).reshape(-1, 16 * n_in)
    four = torch.stack([pad(kernel, (j, 1 - j, i, 1 - i)) for i in (0, 1) for j in (0, 1)])
    found = windows @ four.movedim(2, -1).reshape(4 * n_out, -1).T
    # Not `amax`, whose gradient takes several passes more.
    return (found.view(-1, h, w, 4, n_out).max(3)[0] + shift).relu()


class Conv:
    """(b, h, w) or (b, channels, h, w) -> (b, n_out).

    width: channels of every block, >= 1; blocks: each halves the sides, which have to last.
    """

    head: tuple[str, ...] = ("weight", "bias")

    def __init__(
        self, *, features: Sequence[int], width: int = 32, blocks: int = 3, n_out: int = 64
    ) -> None:
        if len(features) not in (2, 3) or min(features[-2:]) < 2**blocks:
            rule = f"of {blocks} blocks needs images of at least {2**blocks} pixels a side."
            raise fault("model", rule, tuple(features), "Give fewer `blocks` or larger images.")
        self.n_out = n_out
        self._channels = (1 if len(features) == 2 else features[0], *[width] * blocks)
        self._flat = self._channels[-1] * (features[-2] >> blocks) * (features[-1] >> blocks)

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
        if not x.is_cpu:
            return self.apply_mapped(params, x) if is_mapped() else self._apply(params, x)

        def one(x: Tensor, *values: Tensor) -> Tensor:
            return self._apply(dict(zip(params, values, strict=True)), x)

        # Those of many lanes at once would be one of many groups, which takes a CPU twice as long.
        return lane_by_lane(one, x, *params.values())

    def apply_mapped(self, params: Params, x: Tensor) -> Tensor:
        """The same as `apply`, whose operations are what a GPU does well for many lanes at once."""
        x = x.unsqueeze(-1) if x.dim() == 3 else x.movedim(1, -1)
        for i in range(len(self._channels) - 1):
            x = mapped_block(x, params[f"kernel{i}"], params[f"shift{i}"])
        return x.movedim(-1, 1).flatten(1) @ params["weight"] + params["bias"]

    def _apply(self, params: Params, x: Tensor) -> Tensor:
        # A pixel's channels side by side, and so in all blocks: pooling goes several times as fast.
        x = x.unsqueeze(-1) if x.dim() == 3 else x.movedim(1, -1)
        x = x.clone(memory_format=torch.contiguous_format).movedim(-1, 1)
        for i in range(len(self._channels) - 1):
            x = _block(x, params[f"kernel{i}"], params[f"shift{i}"])
        return x.flatten(1) @ params["weight"] + params["bias"]
