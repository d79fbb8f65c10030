"""Prototypical networks whose classes are shown by images and texts.

An example with the embeddings f of its image and g of its text is represented by

r = (1 - w) f + w g  with a text,  r = f  without one,

and a class by s times the mean of its support examples. The meta-parameter s, at first 1, shrinks
prototypes of few noisy examples, which are too long; else even texts without meaning would help,
because they shorten prototypes. Queries usually show no text, so their r is f: the
text of a class must predict where the images of the class are. w in [0, 1] is the hyperparameter
`modal/text`; at 0 only images are used.

Xing, Rostamzadeh, Oreshkin and Pinheiro, "Adaptive cross-modal few-shot learning", NeurIPS 2019,
where w is a function of the text.
"""

import torch
from torch import Tensor

from fewshot.episodes import Episode
from fewshot.errors.inputs import input_error
from fewshot.functional import (
    Hyperparameters,
    Params,
    class_means,
    mask_absent_classes,
    negative_distances,
)
from fewshot.learners.metric.embedding import embed_episodes, embed_rows
from fewshot.learners.metric.protonet import BIAS, WEIGHT, prototype_layer
from fewshot.models.base import Model

MODAL_TEXT = "modal/text"
_SHRINKAGE = "prototype.shrinkage"


class ModalProtoNet:
    """Learns one metric for images and texts.

    model: embeds examples as [f | g], where g = 0 says that there is no text, see
        `fewshot.models.two_towers`.
    """

    hyperparameters: tuple[str, ...] = ("lr/outer", MODAL_TEXT)
    model_scores_classes = False

    def __init__(self, *, model: Model, way: int) -> None:
        if model.n_out % 2:
            rule = "must give two embeddings of the same width, such as two_towers."
            raise input_error("model", rule, f"{model.n_out} outputs")
        self.embedding, self._way = model, way

    def init(self, generator: torch.Generator) -> Params:
        return {**self.embedding.init(generator), _SHRINKAGE: torch.tensor(1.0)}

    def logits(self, params: Params, episodes: Episode, hyper: Hyperparameters) -> Tensor:
        support, query = (
            fused(part, hyper[MODAL_TEXT])
            for part in embed_episodes(self.embedding, params, episodes)
        )
        means = params[_SHRINKAGE] * class_means(support, episodes.support_y, self._way)
        return mask_absent_classes(negative_distances(query, means), episodes.support_y)

    meta_logits = logits

    def fit(self, params: Params, x: Tensor, y: Tensor, hyper: Hyperparameters) -> Params:
        """The parameters with a last layer that predicts like the prototypes, and w."""
        embedded = fused(embed_rows(self.embedding, params, x), hyper[MODAL_TEXT])
        kept = {MODAL_TEXT: hyper[MODAL_TEXT].to(embedded.dtype)}
        return params | kept | prototype_layer(params[_SHRINKAGE] * embedded, y, self._way)

    def predict(self, fitted: Params, x: Tensor) -> Tensor:
        embedded = fused(self.embedding.apply(fitted, x), fitted[MODAL_TEXT])
        return embedded @ fitted[WEIGHT] + fitted[BIAS]


def fused(embedded: Tensor, weight: Tensor) -> Tensor:
    """(1 - w) f + w g for embeddings [f | g] (..., 2 e); f where g is 0. weight: w, ()."""
    image, text = embedded.chunk(2, -1)
    share = weight * (text != 0).any(-1, keepdim=True)
    return image + share * (text - image)
