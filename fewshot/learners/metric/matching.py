"""Matching networks, without full context embeddings.

A query attends to the support examples. The probability of a class is the sum of the attention of
its examples: p(y = c | x) = sum_i a_i [y_i = c],  a = softmax_i(s * cos(f(x), f(x_i))).

The scale s = 1 / temperature is a meta-parameter. The paper uses s = 1, with which the attention to
one of five examples can't exceed .65.

Vinyals, Blundell, Lillicrap, Kavukcuoglu and Wierstra, "Matching networks for one shot learning",
NeurIPS 2016.
"""

import torch
from torch import Tensor

from fewshot.episodes import Episode
from fewshot.functional import (
    Hyperparameters,
    Params,
    log_softmax,
    mask_value,
    one_hot,
    unit,
)
from fewshot.learners.metric.embedding import embed_episodes, embed_rows, log_of
from fewshot.models.base import Model

_SCALE = "head.log_scale"
# Of an adapted model: the embedded support (s, d) and its one-hot classes (s, way).
_EMBEDDED, _MEMBERS = "support.embedded", "support.members"


class MatchingNet:
    """Learns a similarity; nothing is fitted at adaptation. Logits are log-probabilities.

    scale: > 0, the initial scale of the cosines.
    """

    hyperparameters: tuple[str, ...] = ("lr/outer",)
    model_scores_classes = False

    def __init__(self, *, model: Model, way: int, scale: float = 10.0) -> None:
        self.embedding, self._way = model, way
        self._log_scale = log_of("scale", scale)

    def init(self, generator: torch.Generator) -> Params:
        return {**self.embedding.init(generator), _SCALE: self._log_scale.clone()}

    def logits(self, params: Params, episodes: Episode, hyper: Hyperparameters) -> Tensor:
        del hyper
        support, query = embed_episodes(self.embedding, params, episodes)
        cosines = unit(query) @ unit(support).transpose(-1, -2)  # (b, q, s)
        outside = mask_value(support)  # -inf would give NaN for a class without examples
        real = (episodes.support_y >= 0).unsqueeze(1)
        scores = torch.where(real, params[_SCALE].exp() * cosines, outside)
        attention = log_softmax(scores).unsqueeze(-1)
        members = one_hot(episodes.support_y, self._way, support).unsqueeze(1)
        return torch.where(members > 0, attention, outside).logsumexp(-2)

    meta_logits = logits

    def fit(self, params: Params, x: Tensor, y: Tensor, hyper: Hyperparameters) -> Params:
        """The parameters with the embedded support and its classes."""
        del hyper
        embedded = unit(embed_rows(self.embedding, params, x))
        return params | {_EMBEDDED: embedded, _MEMBERS: one_hot(y, self._way, embedded)}

    def predict(self, fitted: Params, x: Tensor) -> Tensor:
        cosines = unit(self.embedding.apply(fitted, x)) @ fitted[_EMBEDDED].mT  # (n, s)
        attention = log_softmax(fitted[_SCALE].exp() * cosines).unsqueeze(-1)
        members = fitted[_MEMBERS] > 0
        return torch.where(members, attention, mask_value(cosines)).logsumexp(-2)
