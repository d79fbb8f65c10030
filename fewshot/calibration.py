"""A scale of the logits that makes probabilities mean what they say.

p(y = c | x) = softmax_c(s * z_c(x)),  s = argmin_s  sum_i -log p(y_i | x_i) + (log s - m)^2 / 2v

on examples that the model has not learned from. The order of the classes stays as it is. The second
term is there where a scale exp(m) is known beforehand: few examples say little, and examples that
are all classified correctly would make s infinite.

Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural networks", ICML 2017.
"""

import math

import torch
from torch import Tensor

# The scale is looked for between exp(-8) and exp(8), to one part in 2^40.
_LARGEST, _HALVINGS = 8.0, 44
# Standard deviation of the logarithm of a scale between tasks.
_DEVIATION = 0.5


def fitted_scale(logits: Tensor, labels: Tensor, prior: float | None = None) -> Tensor:
    """Scales (...) of logits (..., n, c) for labels (..., n), of which those below 0 are padding.

    prior: a scale that is known beforehand, > 0.
    """
    z, real = logits.double(), labels >= 0
    # A class that is not in the episode has the lowest logit there is; the others are what counts.
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
