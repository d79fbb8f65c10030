"""The inner loop: differentiable gradient steps on a support set."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.func import grad, vmap

from fewshot.episodes import Episode
from fewshot.functional import Params
from fewshot.kinds import Kind
from fewshot.models.base import Model

Rates = Mapping[str, Tensor]


@dataclass(frozen=True)
class InnerLoop:
    """theta <- theta - rate * grad L(theta), once for each batch; L is the mean loss of `kind`.

    Only parameters with a rate are changed. A rate is a scalar or has the shape of its parameter.
    first_order: treat the gradients as constants, so that no graph for second derivatives is built.
    """

    model: Model
    kind: Kind
    first_order: bool = False

    def loss(self, moving: Params, resting: Params, x: Tensor, y: Tensor) -> Tensor:
        """The mean loss of the parameters `resting | moving`; gradients are taken of `moving`."""
        predicted = self.kind.mask_absent_classes(self.model.apply(resting | moving, x), y)
        return self.kind.losses(predicted, y).mean()

    def fit(self, params: Params, batches: Iterable[tuple[Tensor, Tensor]], rates: Rates) -> Params:
        """The parameters after one step on each batch: x (n, *features), y (n, ...)."""
        for x, y in batches:
            at = {k: v.detach() for k, v in params.items()} if self.first_order else params
            slope = grad(self.loss)({name: at[name] for name in rates}, at, x, y)
            params = params | {name: params[name] - rates[name] * slope[name] for name in rates}
        return params

    def predict(self, params: Params, episodes: Episode, rates: Rates, steps: int) -> Tensor:
        """Outputs (b, q, n_out) for the queries of b episodes, after `steps` steps on each."""

        def one(episode: Episode) -> Tensor:
            batches = [(episode.support_x, episode.support_y)] * steps
            predicted = self.model.apply(self.fit(params, batches, rates), episode.query_x)
            return self.kind.mask_absent_classes(predicted, episode.support_y)

        outputs: Tensor = vmap(one)(episodes)
        return outputs
