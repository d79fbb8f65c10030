"""The baselines: pretraining on all classes of the training tasks, then a new head per new task.

Pretraining minimises, for task i with C_i classes, the cross-entropy of a classifier over all C_i,
p(y = c | x) = softmax_c(W_i f(x) + b_i). Its null loss is log C_i. Classes of different tasks do
not compete. On a new task f is frozen, and a new classifier is fitted to the support by full-batch
gradient descent. Baseline++ uses cosines in both stages: p = softmax_c(s * cos(W_ic, f)). Its scale
s is learned during pretraining.

One thing differs from the paper: new heads do not start at random values, so that the numbering of
the classes does not matter. A new linear head starts at zero. A new cosine head starts at the mean
directions of the classes (imprinting: Qi, Brown and Lowe, CVPR 2018).

Chen, Liu, Kira, Wang and Huang, "A closer look at few-shot classification", ICLR 2019.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.func import grad

from fewshot.episodes import Episode
from fewshot.errors.inputs import check_sizes
from fewshot.functional import (
    Hyperparameters,
    Params,
    class_means,
    cross_entropies,
    linear_params,
    mask_absent_classes,
    mask_value,
    unit,
)
from fewshot.learners.metric.embedding import embed_episodes, embed_rows, log_of
from fewshot.models.base import Model

_WEIGHT, _BIAS, _SCALE = "classes.weight", "classes.bias", "classes.log_scale"


class Baseline:
    """Learns an embedding by plain classification.

    classes: the number of classes of each training task; empty if nothing is pretrained.
    adapt_steps: >= 0, the steps on a held-out task, with learning rate `lr/adapt`.
    cosine: True for Baseline++.
    """

    hyperparameters: tuple[str, ...] = ("lr/outer", "lr/adapt")
    model_scores_classes = False

    def __init__(
        self,
        *,
        model: Model,
        way: int,
        classes: Sequence[int] = (),
        adapt_steps: int = 50,
        cosine: bool = False,
    ) -> None:
        check_sizes("learner", least=0, adapt_steps=adapt_steps)
        self.embedding, self._way, self._classes = model, way, tuple(classes)
        self._counts = torch.tensor(self._classes, dtype=torch.int64)
        self._adapt_steps, self._cosine = adapt_steps, cosine

    def init(self, generator: torch.Generator) -> Params:
        params = self.embedding.init(generator)
        if self._cosine:
            params[_SCALE] = log_of("scale", 10.0)
        if self._classes:
            t, c = len(self._classes), max(self._classes)
            weight, bias = linear_params(self.embedding.n_out, t * c, generator)
            params[_WEIGHT] = weight.T.reshape(t, c, -1)
            if not self._cosine:
                params[_BIAS] = bias.reshape(t, c)
        return params

    def _scores(self, params: Params, head: Params, x: Tensor) -> Tensor:
        """Logits (b, n, c) of embedded x (b, n, d); each of the b episodes has its own head."""
        if self._cosine:
            return params[_SCALE].exp() * (unit(x) @ unit(head[_WEIGHT]).transpose(-1, -2))
        return x @ head[_WEIGHT].transpose(-1, -2) + head[_BIAS].unsqueeze(-2)

    def logits(self, params: Params, episodes: Episode, hyper: Hyperparameters) -> Tensor:
        support, query = embed_episodes(self.embedding, params, episodes)
        head = self._head(params, support, episodes.support_y, hyper)
        return mask_absent_classes(self._scores(params, head, query), episodes.support_y)

    meta_logits = logits

    def _head(
        self, params: Params, support: Tensor, labels: Tensor, hyper: Hyperparameters
    ) -> Params:
        """A head for each episode, fitted to the embedded support (b, s, d), labels (b, s)."""
        means = class_means(unit(support), labels, self._way)
        zeros = {_WEIGHT: torch.zeros_like(means), _BIAS: torch.zeros_like(means[..., 0])}
        head = {_WEIGHT: means} if self._cosine else zeros

        def loss(head: Params) -> Tensor:  # a sum over episodes, whose heads are independent
            logits = mask_absent_classes(self._scores(params, head, support), labels)
            return _mean_loss(logits, labels).sum()

        for _ in range(self._adapt_steps):
            slope = grad(loss)(head)
            head = {name: head[name] - hyper["lr/adapt"] * slope[name] for name in head}
        return head

    def fit(self, params: Params, x: Tensor, y: Tensor, hyper: Hyperparameters) -> Params:
        """The parameters with a new head in place of those of the training tasks."""
        support = embed_rows(self.embedding, params, x).unsqueeze(0)
        head = self._head(params, support, y.unsqueeze(0), hyper)
        return params | {name: value[0] for name, value in head.items()}

    def predict(self, fitted: Params, x: Tensor) -> Tensor:
        return self._scores(fitted, fitted, self.embedding.apply(fitted, x))

    def class_losses(
        self,
        params: Params,
        episodes: Episode,
        tasks: Tensor,
        classes: Tensor,
        hyper: Hyperparameters,
    ) -> Tensor:
        """Loss (b,) over all examples of each episode, both support and queries."""
        del hyper
        embedded = torch.cat(embed_episodes(self.embedding, params, episodes), 1)
        drawn = torch.cat([episodes.support_y, episodes.query_y], 1)
        labels = torch.where(drawn < 0, -1, classes.gather(1, drawn.clamp(min=0)))
        head = {name: params[name][tasks] for name in (_WEIGHT, _BIAS) if name in params}
        logits = self._scores(params, head, embedded)
        self._counts = self._counts.to(tasks.device)  # copies only in the first step
        n_classes = self._counts[tasks]  # (b,)
        absent = torch.arange(logits.shape[-1], device=tasks.device) >= n_classes.unsqueeze(-1)
        lowest = mask_value(logits)
        return _mean_loss(torch.where(absent.unsqueeze(1), lowest, logits), labels)


def _mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy (b,) of logits (b, n, c) over the rows whose label (b, n) is >= 0."""
    return cross_entropies(logits, labels).sum(-1) / (labels >= 0).sum(-1).clamp(min=1)
