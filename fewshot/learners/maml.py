"""Model-agnostic meta-learning.

theta' = theta - a * grad L_support(theta), repeated; meta-training minimises L_query(theta'), and
differentiates through the inner steps (second order) or takes the gradient at theta' for the one
at theta (first order).

Finn, Abbeel and Levine, "Model-agnostic meta-learning for fast adaptation of deep networks",
ICML 2017.
"""

import torch
from torch import Tensor
from torch.func import grad, vmap

from fewshot.episodes import Episode
from fewshot.functional import Hyperparameters, Params
from fewshot.models.base import Model


class MAML:
    """Learns an initialisation from which a few gradient steps suffice.

    inner_steps: while meta-training, >= 1, at the rate `lr/inner`.
    adapt_steps: on a held-out task, >= 1, at the rate `lr/adapt`.
    """

    hyperparameters: tuple[str, ...] = ("lr/outer", "lr/inner", "lr/adapt")
    model_scores_classes = True  # the model's outputs are the classes, not an embedding

    def __init__(
        self,
        *,
        model: Model,
        way: int,
        inner_steps: int = 1,
        adapt_steps: int = 3,
        first_order: bool = False,
    ) -> None:
        del way  # the width of the model's outputs
        self._model = model
        self._inner_steps, self._adapt_steps = inner_steps, adapt_steps
        self._first_order = first_order

    def init(self, generator: torch.Generator) -> Params:
        return self._model.init(generator)

    def _support_loss(self, params: Params, x: Tensor, y: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(self._model.apply(params, x), y)

    def _fit(self, params: Params, x: Tensor, y: Tensor, rate: Tensor, steps: int) -> Params:
        for _ in range(steps):
            slope = grad(self._support_loss)(params, x, y)
            if self._first_order:
                slope = {name: value.detach() for name, value in slope.items()}
            params = {name: value - rate * slope[name] for name, value in params.items()}
        return params

    def _episode(self, params: Params, episode: Episode, rate: Tensor, steps: int) -> Tensor:
        fitted = self._fit(params, episode.support_x, episode.support_y, rate, steps)
        return self._model.apply(fitted, episode.query_x)

    def logits(self, params: Params, episodes: Episode, hyper: Hyperparameters) -> Tensor:
        mapped = vmap(self._episode, in_dims=(None, 0, None, None))
        return mapped(params, episodes, hyper["lr/adapt"], self._adapt_steps)

    def meta_logits(self, params: Params, episodes: Episode, hyper: Hyperparameters) -> Tensor:
        mapped = vmap(self._episode, in_dims=(None, 0, None, None))
        return mapped(params, episodes, hyper["lr/inner"], self._inner_steps)
