"""Wraps a learner so that features and numbers are scaled, by the support set or by a fixed scale.

z = (x - m) / s,  y = m' + s' * prediction

m and s are the mean and the standard deviation of each feature over the support rows; m' and s' are
those of the numbers. The queries are not used. A feature that is constant in the support gives 0 in
every z. If the numbers are constant in the support, s' is 0.

With a fixed scale, such as that of the training tasks, m and s are the same for every support.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from fewshot.episodes import Episode
from fewshot.functional import Hyperparameters, Params
from fewshot.learners.base import ClassLoss, CustomLoss, KeepsAdapted, Learner

# A standard deviation below this share of the largest number is taken to be rounding error.
_ROUNDING = 1e-6
_OF_FEATURES, _OF_NUMBERS = "scale.features", "scale.numbers"  # in an adapted model


class Scale(NamedTuple):
    """Mean and standard deviation of b supports, (b, 1, ...); the deviation is 0 for constants."""

    mean: Tensor
    spread: Tensor

    def to(self, x: Tensor) -> Tensor:
        """x (b, n, ...) in units of the scale."""
        varies = self.spread > 0
        away = (x - self.mean) / torch.where(varies, self.spread, 1)
        return torch.where(varies, away, 0)

    def back(self, z: Tensor) -> Tensor:
        """z in the original units; the inverse of `to`."""
        return self.mean + self.spread * z


def scale_of(x: Tensor, counts: Tensor) -> Scale:
    """The scale of b supports x (b, n, ...), over the rows where `counts` (b, n) is True or 1."""
    counts = counts.view(*counts.shape, *[1] * (x.dim() - 2)).to(x.dtype)
    share = counts / counts.sum(1, keepdim=True)
    mean = (share * x).sum(1, keepdim=True)
    away = counts * (x - mean)
    # Divided by the largest number first, so that no square overflows.
    largest = away.abs().amax(1, keepdim=True)
    unit = torch.where(largest > 0, largest, 1)
    spread = unit * (share * (away / unit).square()).sum(1, keepdim=True).sqrt()
    varies = spread > _ROUNDING * (counts * x).abs().amax(1, keepdim=True)
    return Scale(mean, torch.where(varies, spread, 0))


def _scale_for(given: bool | Scale, x: Tensor, counts: Tensor) -> Scale:
    """The scale of x (b, n, ...): the given one, or that of the support."""
    if isinstance(given, Scale):
        return given
    return scale_of(x, counts)


def _scale_in(fitted: Params, name: str) -> Scale:
    return Scale(fitted[f"{name}.mean"], fitted[f"{name}.spread"])


class Scaled:
    """A learner whose episodes are scaled; its predictions are scaled back.

    features: whether the features are scaled by each support, or a fixed scale (1, 1, d) of them.
    targets: the same for the numbers to predict, (1, 1, 1). Fixed scales are on the device of the
    episodes. In classification, rows with a label below 0 are padding and are ignored.
    """

    def __init__(self, learner: Learner, *, features: bool | Scale, targets: bool | Scale) -> None:
        self.hyperparameters = learner.hyperparameters
        self.model_scores_classes = learner.model_scores_classes
        self._learner, self._features, self._targets = learner, features, targets
        if isinstance(learner, CustomLoss):
            self._own_loss = learner
            self.meta_losses = self._losses  # only then: its presence makes this a `CustomLoss`
        if isinstance(learner, ClassLoss):
            self._class_loss = learner
            self.class_losses = self._class_losses
        if isinstance(learner, KeepsAdapted):
            self._keeps = learner
            self.fit, self.predict = self._fit, self._predict

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
        """The learner's own losses; losses of scaled numbers are multiplied by s' squared."""
        seen, scale = self._seen(episodes)
        losses = self._own_loss.meta_losses(params, seen, hyper)
        return losses if scale is None else losses * scale.spread.square().flatten()

    def _class_losses(
        self,
        params: Params,
        episodes: Episode,
        tasks: Tensor,
        classes: Tensor,
        hyper: Hyperparameters,
    ) -> Tensor:
        seen, _ = self._seen(episodes)
        return self._class_loss.class_losses(params, seen, tasks, classes, hyper)

    def _fit(self, params: Params, x: Tensor, y: Tensor, hyper: Hyperparameters) -> Params:
        """The adapted parameters with the scales of the support."""
        seen, target = self._seen(Episode(x[None], y[None], x[None], y[None]))
        fitted = self._keeps.fit(params, seen.support_x[0], seen.support_y[0], hyper)
        scales = {_OF_NUMBERS: target} if target is not None else {}
        if self._features:
            counts = torch.ones(1, len(x), device=x.device)
            scales[_OF_FEATURES] = _scale_for(self._features, x[None], counts)
        kept = {f"{name}.mean": scale.mean[0] for name, scale in scales.items()}
        return fitted | kept | {f"{name}.spread": s.spread[0] for name, s in scales.items()}

    def _predict(self, fitted: Params, x: Tensor) -> Tensor:
        if self._features:
            x = _scale_in(fitted, _OF_FEATURES).to(x)
        answers = self._keeps.predict(fitted, x)
        return _scale_in(fitted, _OF_NUMBERS).back(answers) if self._targets else answers

    def _seen(self, episodes: Episode) -> tuple[Episode, Scale | None]:
        """The scaled episodes, and the scale of the predictions (None if targets are unscaled)."""
        labels, target = episodes.support_y, None
        numbers = labels.dim() == 3
        counts = torch.ones_like(labels[..., 0]) if numbers else labels >= 0
        if self._features:
            scale = _scale_for(self._features, episodes.support_x, counts)
            episodes = episodes._replace(
                support_x=scale.to(episodes.support_x), query_x=scale.to(episodes.query_x)
            )
        if self._targets:
            target = _scale_for(self._targets, labels, counts)
            episodes = episodes._replace(
                support_y=target.to(labels), query_y=target.to(episodes.query_y)
            )
        return episodes, target
