"""Meta-SGD: MAML with learned inner rates, one for each scalar parameter.

theta' = theta - a o grad L_support(theta), where a has the shape of theta and o is the elementwise
product. L_query(theta') is minimised over theta and a.

Li, Zhou, Chen and Li, "Meta-SGD: learning to learn quickly for few-shot learning", 2017.
"""

import torch
from torch import Tensor

from fewshot.episodes import Episode
from fewshot.errors.inputs import check_sizes
from fewshot.functional import Hyperparameters, Params
from fewshot.kinds import CLASSIFICATION, Kind
from fewshot.learners.gradient.inner import InnerLoop
from fewshot.learners.per_task import is_per_task
from fewshot.models.base import Model

_RATE, _FACTOR = "rate.", "log_factor"


class MetaSGD:
    """Learns an initialisation, and a rate with a sign for each scalar parameter.

    The rates start at `lr/inner`. The learned meta-parameter is the difference from `lr/inner`,
    which starts at 0 and has the same gradient as the rate. The rates are used on held-out tasks
    too.

    inner_steps: >= 1, the steps during meta-training. adapt_steps: >= 0, those on a held-out task.
    heads: `shared`, or `per_task` to give each training task its own last layer.
    rates: `shared`, or `per_task` to multiply the rates by a factor of each training task. The
        factor starts at 1, and its logarithm is learned.
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
        del way  # equal to the width of the model's outputs
        check_sizes("learner", inner_steps=inner_steps)
        check_sizes("learner", least=0, adapt_steps=adapt_steps)
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

    def _start(self, params: Params, hyper: Hyperparameters) -> tuple[Params, Params]:
        """The initial parameters of a task, and their rates."""
        start = {name: value for name, value in params.items() if _RATE + name in params}
        rates = {name: hyper["lr/inner"] + params[_RATE + name] for name in start}
        if _FACTOR in params:
            rates = {name: params[_FACTOR].exp() * rate for name, rate in rates.items()}
        return start, rates

    def _predict(
        self, params: Params, episodes: Episode, hyper: Hyperparameters, steps: int
    ) -> Tensor:
        start, rates = self._start(params, hyper)
        return self._inner.predict(start, episodes, rates, steps)

    def logits(self, params: Params, episodes: Episode, hyper: Hyperparameters) -> Tensor:
        return self._predict(params, episodes, hyper, self._adapt_steps)

    def meta_logits(self, params: Params, episodes: Episode, hyper: Hyperparameters) -> Tensor:
        return self._predict(params, episodes, hyper, self._inner_steps)

    def fit(self, params: Params, x: Tensor, y: Tensor, hyper: Hyperparameters) -> Params:
        """The parameters after the steps on the support."""
        start, rates = self._start(params, hyper)
        return self._inner.fit(start, [(x, y)] * self._adapt_steps, rates)

    def predict(self, fitted: Params, x: Tensor) -> Tensor:
        return self._model.apply(fitted, x)
