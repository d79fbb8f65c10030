"""One trial as a user would write it for Ray Tune or Optuna: ordinary autograd, one model.

It starts from the same parameters, uses the same episodes and takes the same steps as fewtune's
trial of the same spec, and reports the same scores, up to rounding. Nothing is mapped over trials.
The loss is fewtune's own. With `by_hand` it is rewritten where fewtune's is slow for a single
model: for the inner loop of MAML, and for the scores of a metric. In both cases Adam is PyTorch's,
and episodes are drawn for many steps at once.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from fewshot.episodes import Episode
from fewshot.functional import Params
from fewshot.metrics import skill
from trials.contract import Recipe
from trials.lanes.step.draws import draws
from trials.lanes.step.precision import set_matmul_precision
from trials.programs.build import PROGRAMS, best_device
from trials.programs.meta_training.objective import MetaTraining
from trials.programs.meta_training.task_group import Batch, TaskGroup

_EPISODES_AT_ONCE = 256

Loss = Callable[[Params, Any, Mapping[str, Tensor], Tensor], Tensor]


class PlainTrial:
    """Trains and scores models of one recipe, one after the other; the data is loaded once."""

    def __init__(
        self, recipe: Recipe, cache: Path, *, by_hand: bool, device: torch.device | None = None
    ) -> None:
        self._device = device or best_device()
        set_matmul_precision(recipe.precision)
        self.objective = PROGRAMS[recipe.program](recipe, cache, self._device)
        self._loss: Loss = self.objective.loss
        self._score = self._mapped_score
        if by_hand and isinstance(self.objective, MetaTraining):
            (self._part,) = self.objective.parts
            if recipe.learner.name == "maml" and recipe.regresses:
                self._loss = _maml_loss(self._part, recipe)
            else:
                self._score = self._metric_score

    def run(
        self,
        seed: int,
        hyperparameters: Mapping[str, float],
        task_weights: Mapping[str, float],
        rungs: tuple[int, ...],
    ) -> Iterator[tuple[int, float]]:
        """Train to each rung in turn and yield the rung with its score."""
        objective, device = self.objective, self._device
        begun = objective.init(seed)
        params = {name: p.to(device).requires_grad_() for name, p in begun.items()}
        hyper = {
            name: torch.tensor(hyperparameters[name], device=device)
            for name in objective.hyperparameters
        }
        weights = torch.tensor([task_weights[task] for task in objective.tasks], device=device)
        seeds = torch.tensor([seed], device=device)
        rate = hyperparameters[objective.learning_rate]
        adam = torch.optim.Adam(list(params.values()), lr=rate, fused=True)
        step = 0
        for rung in rungs:
            begin = torch.tensor([step], device=device)
            for drawn in draws(objective.draw, seeds, begin, weights[None], rung - step):
                batch = tree_map(lambda part: part[0], objective.batch(drawn))
                adam.zero_grad()
                self._loss(params, batch, hyper, weights).backward()
                adam.step()
            step = rung
            finite = all(bool(p.isfinite().all()) for p in params.values())
            with torch.no_grad():
                score = self._score(params, hyper) if finite else math.nan
            yield rung, score

    def _mapped_score(self, params: Params, hyper: Mapping[str, Tensor]) -> float:
        """The score of a single model, by fewtune's own function."""
        one = {name: value[None] for name, value in params.items()}
        rates = {name: value[None] for name, value in hyper.items()}
        skills = [scores.skill.mean() for scores in self.objective.score(one, rates, "search")]
        return torch.stack(skills).mean().item()

    def _metric_score(self, params: Params, hyper: Mapping[str, Tensor]) -> float:
        """Mean skill of a classifying learner on all validation episodes."""
        drawn = self._part.scoring.episodes("search")
        parts = zip(*(part.split(_EPISODES_AT_ONCE) for part in drawn), strict=True)
        right: list[Tensor] = []
        for episodes in map(Episode._make, parts):
            logits = self._part.learner.logits(params, episodes, hyper)
            right.append(logits.argmax(-1) == episodes.query_y)
        return skill(torch.cat(right).double().mean(), logits.shape[-1]).item()


def _maml_loss(part: TaskGroup, recipe: Recipe) -> Loss:
    """Second-order MAML on functions: the adapted weights of an episode are a row of a batch."""
    assert part.train is not None, "the loss needs training tasks"
    null_losses = part.train.null_losses
    inner_steps = int(recipe.learner.options.get("inner_steps", 1))

    def loss(
        params: Params, batch: tuple[Batch], hyper: Mapping[str, Tensor], weights: Tensor
    ) -> Tensor:
        episodes = batch[0].episodes
        b = len(episodes.support_y)
        fast = [value.expand(b, *value.shape) for value in params.values()]
        for _ in range(inner_steps):
            errors = (_mlp(fast, episodes.support_x) - episodes.support_y).square()
            slopes = torch.autograd.grad(errors.mean((1, 2)).sum(), fast, create_graph=True)
            fast = [p - hyper["lr/inner"] * s for p, s in zip(fast, slopes, strict=True)]
        errors = (_mlp(fast, episodes.query_x) - episodes.query_y).square()
        per_task = errors.view(len(null_losses), -1).mean(1) / null_losses
        return (weights * per_task).sum()

    return loss


def _mlp(params: list[Tensor], x: Tensor) -> Tensor:
    """An MLP with alternating weights (b, n, m) and biases (b, m); x is (b, q, n)."""
    layers = list(zip(params[::2], params[1::2], strict=True))
    for i, (weight, bias) in enumerate(layers):
        x = torch.baddbmm(bias.unsqueeze(1), x, weight)
        if i < len(layers) - 1:
            x = x.relu()
    return x
