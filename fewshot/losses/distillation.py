"""Knowledge distillation: what a student is charged for differing from its teacher.

L = (1 - w) * CE(y, s) + w * S(t, s),    S = tau^2 * KL(softmax(t / tau) || softmax(s / tau))

for logits s of the student and t of the teacher. The gradient of the KL term goes as 1/tau^2;
tau^2 keeps the mix that w asks for at any temperature. See docs/losses.md for the derivation.

S has variants: KL the other way round (Gu et al., "MiniLLM", ICLR 2024); standardised logits,
(x - mean) / deviation over the classes, which leave the student its own scale (Sun et al., "Logit
standardization in knowledge distillation", CVPR 2024); and decoupled,

S = tau^2 * (a * KL(b_t || b_s) + b * KL(softmax'(t / tau) || softmax'(s / tau))),

with b = (p, 1 - p) for the probability p of the target class, and softmax' over the others alone.
KL itself is a = 1 with b = 1 - p_t (Zhao et al., "Decoupled knowledge distillation", CVPR 2022).

Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network", 2015.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fewshot.functional import log_softmax, unit

Direction = Literal["forward", "reverse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Distillation:
    """Which soft loss. The default is Hinton's.

    direction: `forward` KL(teacher || student), or `reverse`, which lets the student leave out what
    it can't have; they agree as the temperature grows.
    standardise: compare the shapes of the logits, not their scales; a temperature then means the
    same with every teacher.
    decoupled: the weights (a, b) >= 0 of the target class and of the others; the paper has a = 1
    and tunes b. Forward only.
    """

    direction: Direction = "forward"
    standardise: bool = False
    decoupled: tuple[float, float] | None = None

    def losses(
        self, student: Tensor, teacher: Tensor, temperature: Tensor, target: Tensor
    ) -> Tensor:
        """S of each example, (...,), >= 0. The teacher gets no gradient.

        student, teacher: logits (..., c); temperature: > 0, a scalar; target: (...,) int64, the
        class that decoupling sets apart, which nothing else reads.
        """
        if self.standardise:
            student, teacher = standardised(student), standardised(teacher)
        s, t = student / temperature, teacher.detach() / temperature
        if self.decoupled is not None:
            found = decoupled(s, t, target, *self.decoupled)
        elif self.direction == "reverse":
            found = divergence(log_softmax(s), log_softmax(t))
        else:
            found = divergence(log_softmax(t), log_softmax(s))
        charged: Tensor = temperature.square() * found
        return charged


HINTON = Distillation()


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) (...,) of logarithms of probabilities (..., c)."""
    return (p.exp() * (p - q)).sum(-1)


def standardised(logits: Tensor) -> Tensor:
    """Logits (..., c) with mean 0 and variance 1 over the classes; constant ones become 0."""
    centred = logits - logits.mean(-1, keepdim=True)
    return math.sqrt(logits.shape[-1]) * unit(centred)


def decoupled(student: Tensor, teacher: Tensor, target: Tensor, a: float, b: float) -> Tensor:
    """a * KL of the target class against the others + b * KL among the others, (...,)."""
    classes = torch.arange(student.shape[-1], device=student.device)
    at_target = classes == target.unsqueeze(-1)
    (p_t, others_t), (p_s, others_s) = (_parted(x, at_target) for x in (teacher, student))
    return a * divergence(p_t, p_s) + b * divergence(others_t, others_s)


def _parted(logits: Tensor, at_target: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithms of (p, 1 - p), (..., 2), and of the other classes' shares of 1 - p, (..., c)."""
    logs = log_softmax(logits)
    others = logs.masked_fill(at_target, -torch.inf)
    rest = others.logsumexp(-1, keepdim=True)
    own = logs.masked_fill(~at_target, 0).sum(-1, keepdim=True)
    # A zero at the target in both makes it no part of their divergence, nor of its gradient.
    return torch.cat([own, rest], -1), (logs - rest).masked_fill(at_target, 0)
