"""Model-agnostic meta-learning, and its relatives that share the rate of all parameters.

theta' = theta - a * grad L_support(theta), repeated; meta-training minimises L_query(theta'), and
differentiates through the inner steps (second order), or takes the gradient at theta' for the one
at theta (first order: FOMAML). Where only the last layer moves in the inner loop it is ANIL.

Finn, Abbeel and Levine, "Model-agnostic meta-learning for fast adaptation of deep networks",
ICML 2017. Raghu, Raghu, Bengio and Vinyals, "Rapid learning or feature reuse?", ICLR 2020.
"""

import torch
from torch import Tensor

from fewshot.episodes import Episode
from fewshot.errors.inputs import input_error
from fewshot.functional import Hyperparameters, Params
from fewshot.kinds import CLASSIFICATION, Kind
from fewshot.learners.inner import InnerLoop
from fewshot.learners.per_task import is_per_task
from fewshot.models.base import Model


class MAML:
    """Learns an initialisation from which a few gradient steps suffice.

    inner_steps: while meta-training, >= 1, at the rate `lr/inner`.
    adapt_steps: on a held-out task, >= 1, at the rate `lr/adapt`.
    inner: what moves in the inner loop, `all` parameters or the `head`, the model's last layer.
    heads: `shared`, or `per_task`: each training task has a last layer of its own.
    """

    hyperparameters: tuple[str, ...] = ("lr/outer", "lr/inner", "lr/adapt")
    model_scores_classes = True  # the model's outputs are the classes, not an embedding

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
        del way  # the width of the model's outputs
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
