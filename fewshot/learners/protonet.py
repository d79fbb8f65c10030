"""Prototypical networks.

A class is the mean of its embedded support examples; a query belongs to the nearest one:
p(y = c | x) = softmax_c(-||f(x) - m_c||^2).

Snell, Swersky and Zemel, "Prototypical networks for few-shot learning", NeurIPS 2017.
"""

import torch
from torch import Tensor

from fewshot.episodes import Episode
from fewshot.functional import Hyperparameters, Params, class_means, squared_distances
from fewshot.models.base import Model


class ProtoNet:
    """Learns a metric: nothing is fitted at adaptation but the class means."""

    hyperparameters: tuple[str, ...] = ("lr/outer",)
    model_scores_classes = False

    def __init__(self, *, model: Model, way: int) -> None:
        self._model, self._way = model, way

    def init(self, generator: torch.Generator) -> Params:
        return self._model.init(generator)

    def logits(self, params: Params, episodes: Episode, hyper: Hyperparameters) -> Tensor:
        del hyper
        b, n_support = episodes.support_y.shape
        # One pass of the model over all examples of all episodes.
        x = torch.cat([episodes.support_x, episodes.query_x], 1)
        embedded = self._model.apply(params, x.flatten(0, 1)).view(b, x.shape[1], -1)
        means = class_means(embedded[:, :n_support], episodes.support_y, self._way)
        return -squared_distances(embedded[:, n_support:], means)

    meta_logits = logits
