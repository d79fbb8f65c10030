"""Model-agnostic meta-learning with one inner rate for all parameters: MAML, FOMAML, ANIL.

theta' = theta - a * grad L_support(theta), repeated. Meta-training minimises L_query(theta'). It
differentiates through the inner steps (second order), or uses the gradient at theta' in place of
the gradient at theta (first order: FOMAML). In ANIL, only the last layer changes in the inner loop.

Finn, Abbeel and Levine, "Model-agnostic meta-learning for fast adaptation of deep networks",
ICML 2017. Raghu, Raghu, Bengio and Vinyals, "Rapid learning or feature reuse?", ICLR 2020.
"""

import torch
from torch import Tensor

from fewshot.episodes import Episode
from fewshot.errors.inputs import check_sizes, input_error
from fewshot.functional import Hyperparameters, Params
from fewshot.kinds import CLASSIFICATION, Kind
from fewshot.learners.gradient.inner import InnerLoop
from fewshot.learners.per_task import is_per_task
from fewshot.models.base import Model


class MAML:
    """Learns an initialisation from which a few gradient steps suffice.

    inner_steps: >= 1, the steps during meta-training, with learning rate `lr/inner`.
    adapt_steps: >= 0, the steps on a held-out task, with learning rate `lr/adapt`.
    inner: the parameters that the inner loop changes: `all`, or the `head`, the model's last layer.
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
        inner_steps: int = 1,
        adapt_steps: int = 3,
        first_order: bool = False,
        inner: str = "all",
        heads: str = "shared",
    ) -> None:
        del way  # equal to the width of the model's outputs
        check_sizes("learner", inner_steps=inner_steps)
        check_sizes("learner", least=0, adapt_steps=adapt_steps)
        if inner not in ("all", "head"):
            raise input_error("learner.inner", "must be all or head.", inner)
        self._model, self._inner = model, InnerLoop(model, kind, first_order)
        self._inner_steps, self._adapt_steps = inner_steps, adapt_steps
        self._head_only = inner == "head"
        self.per_task = model.head if is_per_task("heads", heads) else ()

    def init(self, generator: torch.Generator) -> Params:
        return self._model.init(generator)

    def _rates(self, params: Params, rate: Tensor) -> dict[str, Tensor]:
        return dict.fromkeys(self._model.head if self._head_only else params, rate)

    def logits(self, params: Params, episodes: Episode, hyper: Hyperparameters) -> Tensor:
        rates = self._rates(params, hyper["lr/adapt"])
        return self._inner.predict(params, episodes, rates, self._adapt_steps)

    def meta_logits(self, params: Params, episodes: Episode, hyper: Hyperparameters) -> Tensor:
        rates = self._rates(params, hyper["lr/inner"])
        return self._inner.predict(params, episodes, rates, self._inner_steps)

    def fit(self, params: Params, x: Tensor, y: Tensor, hyper: Hyperparameters) -> Params:
        """The parameters after the steps on the support."""
        rates = self._rates(params, hyper["lr/adapt"])
        return self._inner.fit(params, [(x, y)] * self._adapt_steps, rates)

    def predict(self, fitted: Params, x: Tensor) -> Tensor:
        return self._model.apply(fitted, x)
