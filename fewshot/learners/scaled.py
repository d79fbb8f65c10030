"""Features and numbers in units of the support set, around any learner.

z = (x - m) / s,  y = m' + s' * prediction

m and s are mean and standard deviation over the rows of a support set, for each feature, and m', s'
those of its numbers: nothing is taken from the queries. What the support has constant has no unit
that could be told from it; it is 0 in every z, and so is its s'.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from fewshot.episodes import Episode
from fewshot.functional import Hyperparameters, Params
from fewshot.learners.base import Learner, OwnLoss

# A spread is rounding if it is a smaller share of the numbers than this.
_ROUNDING = 1e-6


class Scale(NamedTuple):
    """Mean and standard deviation of each of b supports, (b, 1, ...); 0 for what is constant."""

    mean: Tensor
    spread: Tensor

    def to(self, x: Tensor) -> Tensor:
        """x (b, n, ...) in units of the support."""
        varies = self.spread > 0
        away = (x - self.mean) / torch.where(varies, self.spread, 1)
        return torch.where(varies, away, 0)

    def back(self, z: Tensor) -> Tensor:
        """What `to` makes z of."""
        return self.mean + self.spread * z


def scale_of(x: Tensor, counts: Tensor) -> Scale:
    """The scale of b supports x (b, n, ...), of whose rows those count where `counts` (b, n)."""
    counts = counts.view(*counts.shape, *[1] * (x.dim() - 2)).to(x.dtype)
    share = counts / counts.sum(1, keepdim=True)
    mean = (share * x).sum(1, keepdim=True)
    away = counts * (x - mean)
    # The largest is taken out, so that no square is too large for its type.
    largest = away.abs().amax(1, keepdim=True)
    unit = torch.where(largest > 0, largest, 1)
    spread = unit * (share * (away / unit).square()).sum(1, keepdim=True).sqrt()
    varies = spread > _ROUNDING * (counts * x).abs().amax(1, keepdim=True)
    return Scale(mean, torch.where(varies, spread, 0))


class Scaled:
    """A learner that is shown its episodes in units of their supports, its answers scaled back.

    features: whether what is read is scaled; targets: whether the numbers that are learned are.
    Of a classification problem a row whose label is below 0 is padding, and counts for nothing.
    """

    def __init__(self, learner: Learner, *, features: bool, targets: bool) -> None:
        self.hyperparameters = learner.hyperparameters
        self.model_scores_classes = learner.model_scores_classes
        self._learner, self._features, self._targets = learner, features, targets
        if isinstance(learner, OwnLoss):
            self._own_loss = learner
            self.meta_losses = self._losses  # and has none to offer else

    def init(self, generator: torch.Generator) -> Params:
        return self._learner.init(generator)

    def logits(self, params: Params, episodes: Episode, hyper: Hyperparameters) -> Tensor:
        seen, scale = self._seen(episodes)
        answers = self._learner.logits(params, seen, hyper)
        return answers if scale is None else scale.back(answers)

    def meta_logits(self, params: Params, episodes: Episode, hyper: Hyperparameters) -> Tensor:
        seen, scale = self._seen(episodes)
        answers = self._learner.meta_logits(params, seen, hyper)
        return answers if scale is None else scale.back(answers)

    def _losses(self, params: Params, episodes: Episode, hyper: Hyperparameters) -> Tensor:
        """A loss of numbers is one of squares, and so in units of s' squared."""
        seen, scale = self._seen(episodes)
        losses = self._own_loss.meta_losses(params, seen, hyper)
        return losses if scale is None else losses * scale.spread.square().flatten()

    def _seen(self, episodes: Episode) -> tuple[Episode, Scale | None]:
        """What the learner is shown, and how to scale its answers back."""
        labels, target = episodes.support_y, None
        numbers = labels.dim() == 3
        counts = torch.ones_like(labels[..., 0]) if numbers else labels >= 0
        if self._features:
            scale = scale_of(episodes.support_x, counts)
            episodes = episodes._replace(
                support_x=scale.to(episodes.support_x), query_x=scale.to(episodes.query_x)
            )
        if self._targets:
            target = scale_of(labels, counts)
            episodes = episodes._replace(
                support_y=target.to(labels), query_y=target.to(episodes.query_y)
            )
        return episodes, target
