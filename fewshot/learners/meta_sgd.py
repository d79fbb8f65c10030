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
from fewshot.learners.per_task import is_per_task
from fewshot.models.base import Model

_RATE, _FACTOR = "rate.", "log_factor"


class MetaSGD:
    """Learns an initialisation, and how far and which way each of its numbers is to move.

    The rates begin at `lr/inner`: what is learned is their distance from it, which begins at 0 and
    has the gradient of the rates themselves. They are the rates on a held-out task too.

    inner_steps, adapt_steps: >= 1, while meta-training and on a held-out task.
    heads: `shared`, or `per_task`: each training task has a last layer of its own.
    rates: `shared`, or `per_task`: each training task multiplies them by a factor of its own, which
    begins at 1 and is learned as its logarithm.
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
        heads: str = "shared",
        rates: str = "shared",
    ) -> None:
        del way  # the width of the model's outputs
        self._model, self._inner = model, InnerLoop(model, kind)
        self._inner_steps, self._adapt_steps = inner_steps, adapt_steps
        self._factor: Params = {}
        self.per_task = model.head if is_per_task("heads", heads) else ()
        if is_per_task("rates", rates):
            self._factor = {_FACTOR: torch.zeros(())}
            self.per_task += (_FACTOR,)

    def init(self, generator: torch.Generator) -> Params:
        params = self._model.init(generator)
        rates = {_RATE + name: torch.zeros_like(value) for name, value in params.items()}
        return params | rates | {name: value.clone() for name, value in self._factor.items()}

    def _predict(
        self, params: Params, episodes: Episode, hyper: Hyperparameters, steps: int
    ) -> Tensor:
        start = {name: value for name, value in params.items() if _RATE + name in params}
        rates = {name: hyper["lr/inner"] + params[_RATE + name] for name in start}
        if _FACTOR in params:
            rates = {name: params[_FACTOR].exp() * rate for name, rate in rates.items()}
        return self._inner.predict(start, episodes, rates, steps)

    def logits(self, params: Params, episodes: Episode, hyper: Hyperparameters) -> Tensor:
        return self._predict(params, episodes, hyper, self._adapt_steps)

    def meta_logits(self, params: Params, episodes: Episode, hyper: Hyperparameters) -> Tensor:
        return self._predict(params, episodes, hyper, self._inner_steps)
