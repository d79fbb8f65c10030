"""Pure functions of tensors that models and learners are built from."""

from collections.abc import Mapping

import torch
from torch import Tensor

Params = dict[str, Tensor]
Hyperparameters = Mapping[str, Tensor]

_VECTOR = 16  # floats in a 512-bit vector register
_TINY = 1e-12  # smaller than any meaningful squared length


def linear_params(n_in: int, n_out: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Weight (n_in, n_out) and bias (n_out,), uniform in +-1/sqrt(n_in), as in torch.nn.Linear."""
    bound = n_in**-0.5
    weight = (torch.rand(n_in, n_out, generator=generator) * 2 - 1) * bound
    bias = (torch.rand(n_out, generator=generator) * 2 - 1) * bound
    return weight, bias


def negative_distances(a: Tensor, b: Tensor) -> Tensor:
    """-||a - b||^2 + ||a||^2 (..., n, m) of a (..., n, d) and b (..., m, d), for a softmax over m.

    ||a||^2 does not depend on m, so the softmax equals that of the negative squared distances.
    """
    return a @ (2 * b).transpose(-1, -2) - b.square().sum(-1).unsqueeze(-2)


def one_hot(labels: Tensor, n_classes: int, like: Tensor) -> Tensor:
    """One-hot rows: labels (..., n) -> (..., n, n_classes); the label -1 gives zeros."""
    # PyTorch's `one_hot` depends on values and can't be mapped with vmap.
    return (labels.unsqueeze(-1) == torch.arange(n_classes, device=like.device)).to(like.dtype)


def class_means(x: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """Mean of the rows of each class: x (..., n, d), labels (..., n) -> (..., n_classes, d)."""
    members = one_hot(labels, n_classes, x)
    return (members.transpose(-1, -2) @ x) / members.sum(-2).clamp(min=1).unsqueeze(-1)


def mask_absent_classes(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits (..., q, c) with `mask_value` for each class that is not among the labels (..., n)."""
    classes = torch.arange(logits.shape[-1], device=logits.device)
    present = (labels.unsqueeze(-1) == classes).any(-2).unsqueeze(-2)
    return torch.where(present, logits, mask_value(logits))


def mask_value(like: Tensor) -> float:
    """The logit of an impossible class, finite even when divided by a temperature of 0.001."""
    return torch.finfo(like.dtype).min / 1024


def log_softmax(logits: Tensor) -> Tensor:
    """Log-probabilities of the classes of logits (..., c)."""
    if logits.shape[-1] >= _VECTOR or logits.dim() < 2 or not logits.is_cpu:
        return logits.log_softmax(-1)
    # On a CPU, PyTorch does not vectorise over rows shorter than a vector register, but it
    # vectorises over columns.
    return logits.transpose(-1, -2).log_softmax(-2).transpose(-1, -2)


def cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropies (...) of logits (..., c) for labels (...); 0 where the label is negative."""
    right = labels.clamp(min=0).unsqueeze(-1)
    losses = -log_softmax(logits).gather(-1, right).squeeze(-1)
    return torch.where(labels >= 0, losses, 0)


def unit(x: Tensor) -> Tensor:
    """x (..., d) scaled to length 1. A zero vector stays zero and has a finite gradient."""
    return x * (x.square().sum(-1, keepdim=True) + _TINY).rsqrt()
