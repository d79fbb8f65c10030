"""Reptile: the initialisation moves towards where each task's own training leads.

phi_i = theta after a few steps of gradient descent on task i; theta moves along phi_i - theta. That
is descent on ||theta - phi_i||^2 / 2 with phi_i held fixed, whose gradient is theta - phi_i.

Nichol, Achiam and Schulman, "On first-order meta-learning algorithms", 2018.
"""

import torch
from torch import Tensor
from torch.func import vmap

from fewshot.episodes import Episode
from fewshot.functional import Hyperparameters, Params
from fewshot.kinds import CLASSIFICATION, Kind
from fewshot.learners.inner import InnerLoop
from fewshot.learners.per_task import is_per_task
from fewshot.models.base import Model


class Reptile:
    """Learns an initialisation without second derivatives, and without queries.

    inner_steps: while meta-training, >= 2, at the rate `lr/inner`. They take turns on the support
    and on the queries, which are one training set here: on different examples, the later steps
    bring in what makes the earlier ones generalise. A single step would be joint training.
    adapt_steps: on a held-out task, >= 1, at the rate `lr/adapt`, on the support.
    heads: `shared`, or `per_task`: each training task has a last layer of its own.
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
        del way  # the width of the model's outputs
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

    def meta_losses(self, params: Params, episodes: Episode, hyper: Hyperparameters) -> Tensor:
        """The gradient is theta - phi_i; the value, which is for show, the loss at phi_i."""
        start = {name: value.detach() for name, value in params.items()}
        rates = dict.fromkeys(params, hyper["lr/inner"])

        def one(episode: Episode) -> Tensor:
            halves = [
                (episode.support_x, episode.support_y),
                (episode.query_x, episode.query_y),
            ]
            batches = [halves[step % 2] for step in range(self._inner_steps)]
            led_to = self._inner.fit(start, batches, rates)
            distances = [(params[k] - led_to[k]).square().sum() for k in params]
            distance = torch.stack(distances).sum() / 2
            return self._inner.loss(led_to, {}, *halves[1]) + distance - distance.detach()

        losses: Tensor = vmap(one)(episodes)
        return losses
