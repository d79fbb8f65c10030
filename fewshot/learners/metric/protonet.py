"""Prototypical networks.

A class is represented by the mean of its embedded support examples; the nearest mean wins:
p(y = c | x) = softmax_c(-||f(x) - m_c||^2) = softmax_c(2 f(x) m_c - ||m_c||^2).

Snell, Swersky and Zemel, "Prototypical networks for few-shot learning", NeurIPS 2017.
"""

import torch
from torch import Tensor

from fewshot.episodes import Episode
from fewshot.functional import (
    Hyperparameters,
    Params,
    class_means,
    mask_absent_classes,
    negative_distances,
)
from fewshot.learners.metric.embedding import embed_episodes, embed_rows
from fewshot.models.base import Model

WEIGHT, BIAS = "prototype.weight", "prototype.bias"  # of the last layer of an adapted model


class ProtoNet:
    """Learns a metric; adaptation only computes the class means."""

    hyperparameters: tuple[str, ...] = ("lr/outer",)
    model_scores_classes = False

    def __init__(self, *, model: Model, way: int) -> None:
        self.embedding, self._way = model, way

    def init(self, generator: torch.Generator) -> Params:
        return self.embedding.init(generator)

    def logits(self, params: Params, episodes: Episode, hyper: Hyperparameters) -> Tensor:
        del hyper
        support, query = embed_episodes(self.embedding, params, episodes)
        means = class_means(support, episodes.support_y, self._way)
        return mask_absent_classes(negative_distances(query, means), episodes.support_y)

    meta_logits = logits

    def fit(self, params: Params, x: Tensor, y: Tensor, hyper: Hyperparameters) -> Params:
        """The parameters with a last layer that predicts like the prototypes."""
        del hyper
        return params | prototype_layer(embed_rows(self.embedding, params, x), y, self._way)

    def predict(self, fitted: Params, x: Tensor) -> Tensor:
        return self.embedding.apply(fitted, x) @ fitted[WEIGHT] + fitted[BIAS]


def prototype_layer(embedded: Tensor, labels: Tensor, way: int) -> Params:
    """The last layer 2 m_c, -||m_c||^2 of the class means m_c of embedded (s, d), labels (s,)."""
    means = class_means(embedded, labels, way)
    return {WEIGHT: 2 * means.mT, BIAS: -means.square().sum(-1)}
