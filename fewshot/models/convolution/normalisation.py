"""Normalisation of the channels of images, as a function of parameters.

    y = (x - mean) / sqrt(variance + 1e-5) * gain + shift

The mean and the variance are over

- `group`: one image and one of up to eight groups of channels (Wu and He, "Group normalization",
  ECCV 2018). The output of an image does not depend on other images.
- `batch`: all images of a forward pass, for each channel (Ioffe and Szegedy, ICML 2015). There are
  no running statistics. A forward pass has all images of a step in training, a fixed number of
  images of the scoring episodes in scoring, and the support with the queries in predictions. So
  an output depends on the other images, including queries without labels.
"""

import math
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import batch_norm, group_norm

from fewshot.errors.inputs import input_error
from fewshot.functional import Params

Norm: TypeAlias = Literal["group", "batch"]
_GROUPS = 8


def check_norm(norm: object, allowed: tuple[object, ...] = ("group", "batch")) -> None:
    """Raises InputError if the option `norm` of a model is not one of the `allowed` values."""
    if norm not in allowed:
        rule = f"must be {' or '.join(str(name) for name in allowed)}."
        raise input_error("model.norm", rule, norm)


def norm_params(name: str, channels: int) -> Params:
    """Initial gain (channels,) of 1 and shift of 0, under the names `{name}.gain` and so on."""
    return {f"{name}.gain": torch.ones(channels), f"{name}.shift": torch.zeros(channels)}


def normalise(x: Tensor, params: Params, name: str, norm: Norm) -> Tensor:
    """Normalised images (b, channels, h, w) with the parameters of `norm_params`."""
    gain, shift = params[f"{name}.gain"], params[f"{name}.shift"]
    if norm == "group":
        # Contiguous: under vmap, `group_norm` rejects images whose channels are last in memory.
        return group_norm(x.contiguous(), math.gcd(_GROUPS, x.shape[1]), gain, shift)
    return batch_norm(x, None, None, gain, shift, training=True)
