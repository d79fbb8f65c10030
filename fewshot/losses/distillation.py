"""Knowledge distillation: losses of a student that differs from its teacher.

L = (1 - w) * CE(y, s) + w * S(t, s),    S = tau^2 * KL(softmax(t / tau) || softmax(s / tau))

for logits s of the student and t of the teacher. The gradient of the KL term is proportional to
1/tau^2. The factor tau^2 compensates for this, so that w means the same at any temperature. See
docs/losses.md for the derivation.

S has three variants:
- Reverse KL (Gu et al., "MiniLLM", ICLR 2024).
- Standardised logits, (x - mean) / deviation over the classes, so that the student does not have to
  match the scale of the teacher's logits (Sun et al., "Logit standardization in knowledge
  distillation", CVPR 2024).
- Decoupled (Zhao et al., "Decoupled knowledge distillation", CVPR 2022),

  S = tau^2 * (a * KL(b_t || b_s) + b * KL(softmax'(t / tau) || softmax'(s / tau))),

  where b_t and b_s are (p, 1 - p) for the probability p of the target class, and softmax' is over
  the other classes only. KL itself is the case a = 1, b = 1 - p_t.

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
    """The choice of the soft loss. The default is Hinton's.

    direction: `forward` is KL(teacher || student). `reverse` is KL(student || teacher), with which
        the student may ignore classes that it can't model. Both agree as the temperature grows.
    standardise: compare logits without their scale. A temperature then means the same for all
        teachers.
    decoupled: the weights (a, b) >= 0 of the target class and of the other classes. The paper uses
        a = 1 and tunes b. Forward only.
    """

    direction: Direction = "forward"
    standardise: bool = False
    decoupled: tuple[float, float] | None = None

    def losses(
        self, student: Tensor, teacher: Tensor, temperature: Tensor, target: Tensor
    ) -> Tensor:
        """S of each example, (...,), >= 0. The teacher gets no gradient.

        student, teacher: logits (..., c). temperature: a scalar > 0.
        target: (...,) int64, the target class; only decoupled distillation uses it.
        """
        if self.standardise:
            student, teacher = standardised(student), standardised(teacher)
        s, t = student / temperature, teacher.detach() / temperature
        if self.decoupled is not None:
            divergences = decoupled(s, t, target, *self.decoupled)
        elif self.direction == "reverse":
            divergences = divergence(log_softmax(s), log_softmax(t))
        else:
            divergences = divergence(log_softmax(t), log_softmax(s))
        losses: Tensor = temperature.square() * divergences
        return losses


HINTON = Distillation()


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) (...,), where p and q are given as log-probabilities (..., c)."""
    return (p.exp() * (p - q)).sum(-1)


def standardised(logits: Tensor) -> Tensor:
    """Logits (..., c) with mean 0 and variance 1 over the classes; constant logits become 0."""
    centred = logits - logits.mean(-1, keepdim=True)
    return math.sqrt(logits.shape[-1]) * unit(centred)


def decoupled(student: Tensor, teacher: Tensor, target: Tensor, a: float, b: float) -> Tensor:
    """a * KL of the target class against the others + b * KL among the others, (...,)."""
    classes = torch.arange(student.shape[-1], device=student.device)
    at_target = classes == target.unsqueeze(-1)
    (p_t, others_t), (p_s, others_s) = (_parted(x, at_target) for x in (teacher, student))
    return a * divergence(p_t, p_s) + b * divergence(others_t, others_s)


def _parted(logits: Tensor, at_target: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithms of (p, 1 - p), (..., 2), and of the other classes' shares of 1 - p, (..., c).

    p is the probability of the target class.
    """
    logs = log_softmax(logits)
    others = logs.masked_fill(at_target, -torch.inf)
    rest = others.logsumexp(-1, keepdim=True)
    own = logs.masked_fill(~at_target, 0).sum(-1, keepdim=True)
    # Zeros at the target, for student and teacher, exclude it from the divergence and its gradient.
    return torch.cat([own, rest], -1), (logs - rest).masked_fill(at_target, 0)
