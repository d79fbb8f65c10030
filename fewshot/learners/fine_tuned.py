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
from fewshot.errors.inputs import check_sizes, input_error
from fewshot.functional import Hyperparameters, Params, mask_absent_classes
from fewshot.kinds import CLASSIFICATION
from fewshot.learners.gradient.inner import InnerLoop
from fewshot.learners.metric.protonet import BIAS, WEIGHT, ProtoNet, prototype_layer
from fewshot.models.base import Model

ADAPT_STEPS = 5
STEPS = "adapt/steps"  # the hyperparameter; the option `adapt_steps` is the maximum


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
        check_sizes("learner", least=0, adapt_steps=adapt_steps)
        if inner not in ("all", "head"):
            raise input_error("learner.inner", "must be all or head.", inner)
        self._steps = adapt_steps
        self.adapts_embedding = inner == "all"

    def logits(self, params: Params, episodes: Episode, hyper: Hyperparameters) -> Tensor:
        def one(episode: Episode) -> Tensor:
            own = self.fit(params, episode.support_x, episode.support_y, hyper)
            return mask_absent_classes(self.predict(own, episode.query_x), episode.support_y)

        outputs: Tensor = vmap(one)(episodes)
        return outputs

    def fit(self, params: Params, x: Tensor, y: Tensor, hyper: Hyperparameters) -> Params:
        """The parameters with the layer of the prototypes, after the gradient steps."""
        taken = hyper[STEPS].round()
        model = _Classifier(self.embedding, self._way)
        loop = InnerLoop(model, CLASSIFICATION, first_order=True)
        moving = (*params, *model.head) if self.adapts_embedding else model.head
        own = params | prototype_layer(self.embedding.apply(params, x), y, self._way)
        for step in range(self._steps):
            rate = hyper["lr/adapt"] * (step < taken)
            own = loop.fit(own, [(x, y)], dict.fromkeys(moving, rate))
        return own


class _Classifier:
    """The embedding with a last layer, whose parameters are set for each episode."""

    head: tuple[str, ...] = (WEIGHT, BIAS)

    def __init__(self, embedding: Model, n_out: int) -> None:
        self._embedding, self.n_out = embedding, n_out

    def init(self, generator: torch.Generator) -> Params:
        return self._embedding.init(generator)

    def apply(self, params: Params, x: Tensor) -> Tensor:
        return self._embedding.apply(params, x) @ params[WEIGHT] + params[BIAS]
