"""SimpleShot: the nearest class mean of centred features with length 1.

z(x) = (f(x) - m) / ||f(x) - m||,  p(y = c | x) = softmax_c(-s * ||z(x) - mean_c z||^2)

m is the mean of the embedded support set; queries are not used for it. The paper centres by the
mean of the training classes, which does not fit a new task from a different domain. Meta-training
is that of a prototypical network on z, with the scale s as a meta-parameter.

Wang, Chao, Weinberger and van der Maaten, "SimpleShot: revisiting nearest-neighbor classification
for few-shot learning", 2019.
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
    unit,
)
from fewshot.learners.metric.embedding import embed_episodes, embed_rows, log_of
from fewshot.models.base import Model

_SCALE = "head.log_scale"
_MIDDLE, _MEANS = "support.middle", "support.means"  # of an adapted model: (d,), (way, d)


class SimpleShot:
    """Learns an embedding in which classes differ by their direction from the mean of the task.

    scale: > 0, the initial scale of the distances.
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
        labels = episodes.support_y
        middle = class_means(support, labels.clamp(max=0), 1)  # the mean of all real rows
        means = class_means(unit(support - middle), labels, self._way)
        close = negative_distances(unit(query - middle), means)
        return mask_absent_classes(params[_SCALE].exp() * close, labels)

    meta_logits = logits

    def fit(self, params: Params, x: Tensor, y: Tensor, hyper: Hyperparameters) -> Params:
        """The parameters with the mean of the embedded support, and its class means."""
        del hyper
        embedded = embed_rows(self.embedding, params, x)
        middle = embedded.mean(0)
        return params | {
            _MIDDLE: middle,
            _MEANS: class_means(unit(embedded - middle), y, self._way),
        }

    def predict(self, fitted: Params, x: Tensor) -> Tensor:
        away = unit(self.embedding.apply(fitted, x) - fitted[_MIDDLE])
        return fitted[_SCALE].exp() * negative_distances(away, fitted[_MEANS])
