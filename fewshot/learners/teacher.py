"""A teacher: multinomial logistic regression on frozen features of a large model.

min_W,b  mean CE(y, xW + b) + ||W||^2 / (2 * c * n), by L-BFGS.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


def fit_logistic(x: Tensor, y: Tensor, n_classes: int, *, c: float = 10.0) -> tuple[Tensor, Tensor]:
    """Weight (d, n_classes) and bias (n_classes,) fitted to features x (n, d) and labels y (n,).

    c: > 0, the inverse strength of the penalty as in scikit-learn.
    """
    weight = torch.zeros(x.shape[1], n_classes, requires_grad=True)
    bias = torch.zeros(n_classes, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=200, history_size=20, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(x @ weight + bias, y) + weight.square().sum() / (2 * c * len(y))
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight.detach(), bias.detach()
