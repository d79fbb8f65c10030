"""Meta-SGD: MAML that learns its inner rates, one for every number in the parameters.

theta' = theta - a o grad L_support(theta), a of theta's shape; L_query(theta') is minimised in
theta and in a.

Li, Zhou, Chen and Li, "Meta-SGD: learning to learn quickly for few-shot learning", 2017.
"""

import torch
from torch import Tensor

from fewshot.episodes import Episode
from fewshot.functional import Hyperparameters, Params
from fewshot.kinds import CLASSIFICATION, Kind
from fewshot.learners.inner import InnerLoop
from fewshot.models.base import Model

_RATE = "rate."


class MetaSGD:
    """Learns an initialisation, and how far and which way each of its numbers is to move.

    The rates begin at `lr/inner`: what is learned is their distance from it, which begins at 0 and
    has the gradient of the rates themselves. They are the rates on a held-out task too.

    inner_steps, adapt_steps: >= 1, while meta-training and on a held-out task.
    """

    hyperparameters: tuple[str, ...] = ("lr/outer", "lr/inner")
    model_scores_classes = True

    def __init__(
        self,
        *,
        model: Model,
        way: int,
        kind: Kind = CLASSIFICATION,
        inner_steps: int = 1,
        adapt_steps: int = 1,
    ) -> None:
        del way  # the width of the model's outputs
        self._model, self._inner = model, InnerLoop(model, kind)
        self._inner_steps, self._adapt_steps = inner_steps, adapt_steps

    def init(self, generator: torch.Generator) -> Params:
        params = self._model.init(generator)
        return params | {_RATE + name: torch.zeros_like(value) for name, value in params.items()}

    def _predict(
        self, params: Params, episodes: Episode, hyper: Hyperparameters, steps: int
    ) -> Tensor:
        start = {name: value for name, value in params.items() if not name.startswith(_RATE)}
        rates = {name: hyper["lr/inner"] + params[_RATE + name] for name in start}
        return self._inner.predict(start, episodes, rates, steps)

    def logits(self, params: Params, episodes: Episode, hyper: Hyperparameters) -> Tensor:
        return self._predict(params, episodes, hyper, self._adapt_steps)

    def meta_logits(self, params: Params, episodes: Episode, hyper: Hyperparameters) -> Tensor:
        return self._predict(params, episodes, hyper, self._inner_steps)
