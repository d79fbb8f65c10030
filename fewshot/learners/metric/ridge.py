"""Closed-form ridge regression on embedded examples.

It is differentiable: gradients reach the embedding through it.

For classes:

W = argmin ||XW - Y||^2 + r ||W||^2 = (X'X + rI)^-1 X'Y = X'(XX' + rI)^-1 Y,  logits = s * f(x) W,

for the embedded support X (n, d) and its one-hot classes Y (n, way). The smaller of the two linear
systems is solved. The scale s and the penalty are meta-parameters.

Two things differ from the paper:
- r is the penalty times the mean squared length of the rows of X. Conditioning and the effect of
  a penalty then stay the same when embeddings grow during meta-training. For embeddings of length 1
  there is no difference.
- The logits have no learned bias, because adding one number to all logits does not change their
  softmax.

For numbers y, X and Y are centred by their means m and v, so the intercept is not penalised:

W = argmin ||(X - m)W - (Y - v)||^2 + r ||W||^2,  y = v + (f(x) - m) W.

Bertinetto, Henriques, Torr and Vedaldi, "Meta-learning with differentiable closed-form solvers",
ICLR 2019 (R2D2).
"""

import torch
from torch import Tensor
from torch.linalg import solve_ex

from fewshot.episodes import Episode
from fewshot.functional import Hyperparameters, Params, mask_absent_classes, one_hot
from fewshot.kinds import CLASSIFICATION, REGRESSION, Kind
from fewshot.learners.metric.embedding import embed_episodes, embed_rows, log_of
from fewshot.models.base import Model

_SCALE, _PENALTY, _PENALTY_OF_NUMBERS = (
    "head.log_scale",
    "head.log_penalty",
    "head.log_penalty_of_numbers",
)
_WEIGHT, _BIAS = "ridge.weight", "ridge.bias"  # of the last layer of an adapted model
_TINY = 1e-12  # keeps the system regular if all examples have the embedding zero


class Ridge:
    """Fits a linear classifier, or a linear function, at adaptation, in closed form.

    scale, penalty: > 0, the initial values. Regression has no scale.
    """

    hyperparameters: tuple[str, ...] = ("lr/outer",)
    model_scores_classes = False

    def __init__(
        self,
        *,
        model: Model,
        way: int,
        kind: Kind = CLASSIFICATION,
        scale: float = 10.0,
        penalty: float = 1.0,
    ) -> None:
        self.embedding, self._way, self._regresses = model, way, kind is REGRESSION
        log_scale, log_penalty = log_of("scale", scale), log_of("penalty", penalty)
        self._learned = (
            {_PENALTY_OF_NUMBERS: log_penalty}
            if self._regresses
            else {_SCALE: log_scale, _PENALTY: log_penalty}
        )

    def init(self, generator: torch.Generator) -> Params:
        learned = {name: value.clone() for name, value in self._learned.items()}
        return {**self.embedding.init(generator), **learned}

    def logits(self, params: Params, episodes: Episode, hyper: Hyperparameters) -> Tensor:
        del hyper
        support, query = embed_episodes(self.embedding, params, episodes)
        if self._regresses:
            middle, mean = (part.mean(1, keepdim=True) for part in (support, episodes.support_y))
            penalty = params[_PENALTY_OF_NUMBERS].exp()
            weight = ridge(support - middle, episodes.support_y - mean, penalty)
            return mean + (query - middle) @ weight
        labels = episodes.support_y
        real = (labels >= 0).unsqueeze(-1)
        # Padding rows are zeros. They only change the mean over rows that scales the penalty, which
        # `share` corrects.
        share = real.to(support.dtype).mean(1, keepdim=True)
        classes = one_hot(labels, self._way, support)
        support = torch.where(real, support, 0.0)
        weight = ridge(support, classes, params[_PENALTY].exp() / share)
        return mask_absent_classes(params[_SCALE].exp() * (query @ weight), labels)

    meta_logits = logits

    def fit(self, params: Params, x: Tensor, y: Tensor, hyper: Hyperparameters) -> Params:
        """The parameters with the fitted linear map as a last layer."""
        del hyper
        embedded = embed_rows(self.embedding, params, x).unsqueeze(0)
        if self._regresses:
            middle, mean = embedded.mean(1, keepdim=True), y.mean(0)
            weight = ridge(embedded - middle, (y - mean)[None], params[_PENALTY_OF_NUMBERS].exp())
            return params | {_WEIGHT: weight[0], _BIAS: mean - (middle @ weight)[0, 0]}
        classes = one_hot(y, self._way, embedded)
        weight = params[_SCALE].exp() * ridge(embedded, classes[None], params[_PENALTY].exp())[0]
        return params | {_WEIGHT: weight, _BIAS: torch.zeros_like(weight[0])}

    def predict(self, fitted: Params, x: Tensor) -> Tensor:
        return self.embedding.apply(fitted, x) @ fitted[_WEIGHT] + fitted[_BIAS]


def ridge(x: Tensor, y: Tensor, penalty: Tensor) -> Tensor:
    """Weights (b, d, c) of the linear map from x (b, n, d) to y (b, n, c).

    penalty: > 0, () or (b, 1, 1), in units of the mean squared length of the rows of x.
    """
    n, d = x.shape[-2:]
    mean_square = x.square().sum(-1).mean(-1)[..., None, None]
    strength = (penalty * mean_square + _TINY) * torch.eye(
        min(n, d), dtype=x.dtype, device=x.device
    )
    across = x.transpose(-1, -2)
    # `solve_ex` raises no exception, so that a diverged trial does not fail its neighbours.
    if n < d:
        weight: Tensor = across @ solve_ex(x @ across + strength, y).result
    else:
        weight = solve_ex(across @ x + strength, across @ y).result
    return weight
