"""A prototypical network that is fine-tuned on the support set of a new task.

Meta-training is that of a prototypical network. On a new task, the class means m_c initialise a
last layer with weights 2 m_c and biases -||m_c||^2, which predicts like the prototypes; then some
gradient steps on the cross-entropy of the support set change this layer, or the embedding too.

Hu, Li, Stuehmer, Kim and Hospedales, "Pushing the limits of simple pipelines for few-shot
learning", CVPR 2022. The last layer is that of Proto-MAML: Triantafillou et al., "Meta-Dataset",
ICLR 2020.
"""

import torch
from torch import Tensor
from torch.func import vmap

from fewshot.episodes import Episode
from fewshot.errors.inputs import input_error
from fewshot.functional import Hyperparameters, Params, class_means, mask_absent_classes
from fewshot.kinds import CLASSIFICATION
from fewshot.learners.inner import InnerLoop
from fewshot.learners.protonet import ProtoNet
from fewshot.models.base import Model

ADAPT_STEPS = 5
STEPS = "adapt/steps"  # the hyperparameter; the option `adapt_steps` is the maximum
_WEIGHT, _BIAS = "prototype.weight", "prototype.bias"


class FineTunedProtoNet(ProtoNet):
    """Learns a metric; adaptation computes the class means and takes some gradient steps.

    The number of steps is the hyperparameter `adapt/steps`, rounded; their rate is `lr/adapt`.

    adapt_steps: >= 0, the maximum number of steps.
    inner: the parameters that the steps change: the `head`, which is the layer of the prototypes,
        or `all`. For a LoRA model these are the adapter and the head.
    """

    hyperparameters: tuple[str, ...] = ("lr/outer", "lr/adapt", STEPS)

    def __init__(
        self, *, model: Model, way: int, adapt_steps: int = ADAPT_STEPS, inner: str = "head"
    ) -> None:
        super().__init__(model=model, way=way)
        if type(adapt_steps) is not int or adapt_steps < 0:
            raise input_error("learner.adapt_steps", "must be a whole number >= 0.", adapt_steps)
        if inner not in ("all", "head"):
            raise input_error("learner.inner", "must be all or head.", inner)
        self._steps = adapt_steps
        self.adapts_embedding = inner == "all"

    def logits(self, params: Params, episodes: Episode, hyper: Hyperparameters) -> Tensor:
        taken = hyper[STEPS].round()
        model = _Classifier(self.embedding, self._way)
        loop = InnerLoop(model, CLASSIFICATION, first_order=True)
        moving = (*params, *model.head) if self.adapts_embedding else model.head
        rates = [
            dict.fromkeys(moving, hyper["lr/adapt"] * (step < taken)) for step in range(self._steps)
        ]

        def one(episode: Episode) -> Tensor:
            x, y = episode.support_x, episode.support_y
            means = class_means(self.embedding.apply(params, x), y, self._way)
            own = params | {_WEIGHT: 2 * means.mT, _BIAS: -means.square().sum(-1)}
            for rate in rates:
                own = loop.fit(own, [(x, y)], rate)
            return mask_absent_classes(model.apply(own, episode.query_x), y)

        outputs: Tensor = vmap(one)(episodes)
        return outputs


class _Classifier:
    """The embedding with a last layer, whose parameters are set for each episode."""

    head: tuple[str, ...] = (_WEIGHT, _BIAS)

    def __init__(self, embedding: Model, n_out: int) -> None:
        self._embedding, self.n_out = embedding, n_out

    def init(self, generator: torch.Generator) -> Params:
        return self._embedding.init(generator)

    def apply(self, params: Params, x: Tensor) -> Tensor:
        return self._embedding.apply(params, x) @ params[_WEIGHT] + params[_BIAS]
