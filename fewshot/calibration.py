"""Calibrates class probabilities by a scale of the logits.

p(y = c | x) = softmax_c(s * z_c(x)),  s = argmin_s  sum_i -log p(y_i | x_i) + (log s - m)^2 / 2v

The examples i are not training examples. The scale does not change the order of the classes. The
second term is used if a prior scale exp(m) is known. It is needed because a few examples determine
s poorly, and because s would be infinite if all of them are classified correctly.

Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural networks", ICML 2017.
"""

import math

import torch
from torch import Tensor

# The scale is searched between exp(-8) and exp(8), to one part in 2^40.
_LARGEST, _HALVINGS = 8.0, 44
# Standard deviation, between tasks, of the logarithm of the scale.
_DEVIATION = 0.5


def fitted_scale(logits: Tensor, labels: Tensor, prior: float | None = None) -> Tensor:
    """Scales (...) that calibrate logits (..., n, c) for labels (..., n).

    Rows with a negative label are padding. prior: a prior scale exp(m), > 0, or None.
    """
    z, real = logits.double(), labels >= 0
    # Classes that are not in the episode have the lowest possible logit, and are ignored.
    absent = z < torch.finfo(logits.dtype).min / 2048
    right = z.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    low = torch.full(z.shape[:-2], -_LARGEST, dtype=torch.float64, device=z.device)
    high = -low
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        scale = middle.exp()[..., None, None]
        p = torch.where(absent, -torch.inf, scale * z).softmax(-1)
        expected = torch.where(absent, 0, p * z).sum(-1)
        slope = middle.exp() * torch.where(real, expected - right, 0).sum(-1)
        if prior is not None:
            slope = slope + (middle - math.log(prior)) / _DEVIATION**2
        low, high = torch.where(slope < 0, middle, low), torch.where(slope < 0, high, middle)
    return ((low + high) / 2).exp()
