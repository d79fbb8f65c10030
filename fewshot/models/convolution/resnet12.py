"""The residual network with twelve layers of the few-shot literature.

Four blocks, each of three 3x3 convolutions with normalisation and leaky ReLU of slope 0.1, a
shortcut by a 1x1 convolution, and 2x2 maximum pooling; then the mean over all pixels and a linear
layer. In the literature the mean itself is the embedding. The linear layer is here because learners
such as ANIL adapt the last layer.

Oreshkin, Rodriguez and Lacoste, "TADAM", NeurIPS 2018. Lee, Maji, Ravichandran and Soatto,
"Meta-learning with differentiable convex optimization", CVPR 2019; its widths are the default here,
its DropBlock is left out.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import conv2d, leaky_relu, max_pool2d

from fewshot.errors.inputs import ErrorDetail, InputError, check_sizes
from fewshot.functional import Params, linear_params
from fewshot.models.convolution.normalisation import Norm, check_norm, norm_params, normalise

_SLOPE = 0.1  # of leaky ReLU below zero
_LAYERS = 3  # convolutions of a block


class ResNet12:
    """(b, h, w) or (b, channels, h, w) -> (b, n_out).

    widths: >= 1 each, the channels of each block; each block halves the sides of the image, which
        must have at least 2^(number of blocks) pixels.
    norm: see `fewshot.models.convolution.normalisation`. With `batch`, an output depends on the
        other images of the forward pass.
    """

    head: tuple[str, ...] = ("weight", "bias")
    fills_processor = True

    def __init__(
        self,
        *,
        features: Sequence[int],
        widths: Sequence[int] = (64, 160, 320, 640),
        norm: Norm = "group",
        n_out: int = 640,
    ) -> None:
        check_norm(norm)
        check_sizes("model", n_out=n_out)
        details = []
        if not widths or any(type(width) is not int or width < 1 for width in widths):
            rule = "must be whole numbers of at least 1."
            details.append(ErrorDetail("model.widths", rule, widths))
        elif len(features) not in (2, 3) or min(features[-2:]) < 2 ** len(widths):
            rule = f"resnet12 needs images of at least {2 ** len(widths)} pixels a side."
            details.append(ErrorDetail("model", rule, tuple(features), "Use larger images."))
        if details:
            raise InputError(details)
        self.n_out, self._norm = n_out, norm
        self._channels = (1 if len(features) == 2 else features[0], *widths)

    def init(self, generator: torch.Generator) -> Params:
        params: Params = {}
        pairs = zip(self._channels[:-1], self._channels[1:], strict=True)
        for block, (n_in, n_out) in enumerate(pairs):
            for layer in range(_LAYERS):
                name, width = f"block{block}.conv{layer}", n_out if layer else n_in
                params[name] = _kernel((n_out, width, 3, 3), generator)
                params |= norm_params(f"block{block}.norm{layer}", n_out)
            params[f"block{block}.shortcut"] = _kernel((n_out, n_in, 1, 1), generator)
            params |= norm_params(f"block{block}.norm_shortcut", n_out)
        params["weight"], params["bias"] = linear_params(self._channels[-1], self.n_out, generator)
        return params

    def apply(self, params: Params, x: Tensor) -> Tensor:
        if x.dim() == 3:
            x = x.unsqueeze(1)
        for block in range(len(self._channels) - 1):
            x = self._block(params, f"block{block}", x)
        return x.mean((2, 3)) @ params["weight"] + params["bias"]

    def _block(self, params: Params, name: str, x: Tensor) -> Tensor:
        """(b, n_in, h, w) -> (b, n_out, h / 2, w / 2)."""
        shortcut = conv2d(x, params[f"{name}.shortcut"])
        shortcut = normalise(shortcut, params, f"{name}.norm_shortcut", self._norm)
        for layer in range(_LAYERS):
            x = conv2d(x, params[f"{name}.conv{layer}"], padding=1)
            x = normalise(x, params, f"{name}.norm{layer}", self._norm)
            x = leaky_relu(x + shortcut if layer == _LAYERS - 1 else x, _SLOPE)
        return max_pool2d(x, 2)


def _kernel(shape: tuple[int, int, int, int], generator: torch.Generator) -> Tensor:
    """A random kernel (n_out, n_in, h, w); He et al., ICCV 2015, for leaky ReLU."""
    n_in = shape[1] * shape[2] * shape[3]
    spread: float = (2 / (1 + _SLOPE**2) / n_in) ** 0.5
    return torch.randn(shape, generator=generator) * spread
