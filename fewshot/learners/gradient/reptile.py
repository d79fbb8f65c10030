"""Reptile: the initialisation moves towards the parameters after training on each task.

phi_i is theta after a few steps of gradient descent on task i, and theta moves along phi_i - theta.
This is gradient descent on ||theta - phi_i||^2 / 2 with phi_i held fixed, whose gradient is
theta - phi_i.

Nichol, Achiam and Schulman, "On first-order meta-learning algorithms", 2018.
"""

import torch
from torch import Tensor
from torch.func import vmap

from fewshot.episodes import Episode
from fewshot.errors.inputs import check_sizes
from fewshot.functional import Hyperparameters, Params
from fewshot.kinds import CLASSIFICATION, Kind
from fewshot.learners.gradient.inner import InnerLoop
from fewshot.learners.per_task import is_per_task
from fewshot.models.base import Model


class Reptile:
    """Learns an initialisation without second derivatives.

    inner_steps: >= 2, the steps during meta-training, with learning rate `lr/inner`. They alternate
        between the support and the queries, which together are the training set of the task. Later
        steps on different examples favour earlier steps that generalise. A single step would be
        plain joint training.
    adapt_steps: >= 0, the steps on the support of a held-out task, with learning rate `lr/adapt`.
    heads: `shared`, or `per_task` to give each training task its own last layer.
    """

    hyperparameters: tuple[str, ...] = ("lr/outer", "lr/inner", "lr/adapt")
    model_scores_classes = True

    def __init__(
        self,
        *,
        model: Model,
        way: int,
        kind: Kind = CLASSIFICATION,
        inner_steps: int = 4,
        adapt_steps: int = 3,
        heads: str = "shared",
    ) -> None:
        del way  # equal to the width of the model's outputs
        check_sizes("learner", inner_steps=inner_steps)
        check_sizes("learner", least=0, adapt_steps=adapt_steps)
        self._model, self._inner = model, InnerLoop(model, kind, first_order=True)
        self._inner_steps, self._adapt_steps = inner_steps, adapt_steps
        self.per_task = model.head if is_per_task("heads", heads) else ()

    def init(self, generator: torch.Generator) -> Params:
        return self._model.init(generator)

    def logits(self, params: Params, episodes: Episode, hyper: Hyperparameters) -> Tensor:
        rates = dict.fromkeys(params, hyper["lr/adapt"])
        return self._inner.predict(params, episodes, rates, self._adapt_steps)

    def meta_logits(self, params: Params, episodes: Episode, hyper: Hyperparameters) -> Tensor:
        rates = dict.fromkeys(params, hyper["lr/inner"])
        return self._inner.predict(params, episodes, rates, self._inner_steps)

    def fit(self, params: Params, x: Tensor, y: Tensor, hyper: Hyperparameters) -> Params:
        """The parameters after the steps on the support."""
        rates = dict.fromkeys(params, hyper["lr/adapt"])
        return self._inner.fit(params, [(x, y)] * self._adapt_steps, rates)

    def predict(self, fitted: Params, x: Tensor) -> Tensor:
        return self._model.apply(fitted, x)

    def meta_losses(self, params: Params, episodes: Episode, hyper: Hyperparameters) -> Tensor:
        """Losses (b,) with the gradient theta - phi_i. Their values are the losses at phi_i."""
        start = {name: value.detach() for name, value in params.items()}
        rates = dict.fromkeys(params, hyper["lr/inner"])

        def one(episode: Episode) -> Tensor:
            halves = [
                (episode.support_x, episode.support_y),
                (episode.query_x, episode.query_y),
            ]
            batches = [halves[step % 2] for step in range(self._inner_steps)]
            fitted = self._inner.fit(start, batches, rates)
            distances = [(params[k] - fitted[k]).square().sum() for k in params]
            distance = torch.stack(distances).sum() / 2
            return self._inner.loss(fitted, {}, *halves[1]) + distance - distance.detach()

        losses: Tensor = vmap(one)(episodes)
        return losses
