"""Knowledge distillation.

L = (1 - w) * CE(y, s) + w * tau^2 * KL(softmax(t / tau) || softmax(s / tau))

for logits s of the student and t of the teacher. The gradient of the KL term goes as 1/tau^2;
tau^2 keeps the mix that w asks for at any temperature.

Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network", 2015.
"""

from torch import Tensor
from torch.nn.functional import kl_div, log_softmax


def soft_loss(student: Tensor, teacher: Tensor, temperature: Tensor) -> Tensor:
    """tau^2 * KL(teacher || student), a scalar: summed over classes, mean over examples.

    student, teacher: logits (b, c); temperature: > 0. The teacher gets no gradient.
    """
    divergence = kl_div(
        log_softmax(student / temperature, -1),
        log_softmax(teacher.detach() / temperature, -1),
        reduction="batchmean",
        log_target=True,
    )
    return temperature**2 * divergence
