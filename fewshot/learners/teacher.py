"""Teachers that are not meta-trained learners.

The logistic head is fitted to frozen features of a large model by L-BFGS:

min_W,b  mean CE(y, xW + b) + ||W||^2 / (2 * c * n)
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fewshot.episodes import Episode
from fewshot.functional import Hyperparameters, Params
from fewshot.models.base import AppliesToLanes, Model


class Logistic:
    """Multinomial logistic regression on the support, fitted to one episode after the other."""

    def __init__(self, way: int) -> None:
        self._way = way

    def logits(self, params: Params, episodes: Episode, hyper: Hyperparameters) -> Tensor:
        """Logits (b, q, way) of the queries."""
        del params, hyper
        fitted = [
            fit_logistic(x, y, self._way)
            for x, y in zip(episodes.support_x, episodes.support_y, strict=True)
        ]
        weight, bias = (torch.stack(parts) for parts in zip(*fitted, strict=True))
        return episodes.query_x @ weight + bias.unsqueeze(1)


class FixedClassifier:
    """A trained classifier; `columns` (c,) selects the outputs of the classes that are needed."""

    def __init__(self, model: Model, columns: Tensor) -> None:
        self._model, self._columns = model, columns

    def logits(self, params: Params, episodes: Episode, hyper: Hyperparameters) -> Tensor:
        """Logits (b, q, c) of the queries."""
        del hyper
        b, q = episodes.query_x.shape[:2]
        scores = self._outputs(params, episodes.query_x.flatten(0, 1))
        return scores[:, self._columns].view(b, q, -1)

    def _outputs(self, params: Params, x: Tensor) -> Tensor:
        if not isinstance(self._model, AppliesToLanes):
            return self._model.apply(params, x)
        stacked = {name: value.unsqueeze(0) for name, value in params.items()}
        return self._model.apply_to_lanes(stacked, x.unsqueeze(0))[0]


def log_mean_probabilities(logits: Tensor) -> Tensor:
    """Logarithms (..., c) of the mean probabilities of m models with logits (m, ..., c).

    The mean is over probabilities and not over their logarithms, so that a single model that is
    certain can't exclude a class.
    """
    return logits.log_softmax(-1).logsumexp(0) - math.log(len(logits))


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

    with torch.enable_grad():
        optimizer.step(closure)
    return weight.detach(), bias.detach()
