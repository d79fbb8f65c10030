"""Cosines of the gradients of training and validation tasks at the start of training.

The gradient of a task is that of the loss of its queries, after adaptation to the support. Its part
that any labels have is removed: the gradients of all tasks share the direction that makes
predictions less confident, whether or not there is anything to learn. So

g = grad L(queries) - grad L(queries with permuted labels),

and a positive cosine of g_i and g_j means: to first order, a step that learns the labels of task i
makes those of task j easier to learn.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from fewshot.episodes import Episode, bounds, hide_query_labels
from fewshot.functional import Params
from fewshot.metrics import Estimate
from fewshot.randomness import fold
from fewshot.tasks.base import Pool
from trials.contract import Recipe
from trials.data.pools import TaskKind
from trials.data.sources import Sources
from trials.programs.build import task_groups
from trials.programs.meta_training.objective import MetaTraining
from trials.programs.meta_training.scoring import with_states
from trials.programs.meta_training.task_group import TaskGroup
from trials.programs.similarity.affinity import key_of

# Queries of a task whose gradients are averaged, and the least number of episodes for this.
_QUERIES, _LEAST = 600, 8
# Groups of episodes; the error is that of leaving out one group.
_GROUPS = 8
# Longer gradients are summed into this many numbers with random signs, which keeps their cosines.
_LONGEST = 1 << 16
# Makes the random keys of validation episodes different from those of training episodes.
_VALIDATION = 7


def cosines(
    recipe: Recipe,
    sources: Sources | None,
    pools: Mapping[TaskKind, Mapping[str, Pool]],
    cache: Path,
    hyperparameters: Mapping[str, float],
) -> list[list[Estimate]]:
    """The cosine of each training task's gradient and each validation task's, t rows of v."""
    parts = task_groups(recipe, sources, pools, torch.device("cpu"), cache)
    params = MetaTraining(parts, recipe.episodes).init(recipe.seed, hyperparameters)
    numbers = _Numbers(params, hyperparameters, recipe)
    train = [g for part in parts if part.train is not None for g in numbers.of(part, part.train, 0)]
    held_out = [(part, part.held_out["search"][0]) for part in parts if "search" in part.held_out]
    validation = [g for part, pool in held_out for g in numbers.of(part, pool, _VALIDATION)]
    return _table(torch.stack(train, 1), torch.stack(validation, 1))


def _table(train: Tensor, validation: Tensor) -> list[list[Estimate]]:
    """Cosines of the sums of gradients (groups, t, p) and (groups, v, p), with jackknife errors."""
    groups = len(train)
    whole = _cosine(train.sum(0), validation.sum(0))
    left = [train.sum(0) - train, validation.sum(0) - validation]
    without = torch.stack([_cosine(a, b) for a, b in zip(*left, strict=True)])
    error = (without.var(0, correction=0) * (groups - 1)).sqrt()
    return [
        [Estimate(mean, se, groups) for mean, se in zip(means, errors, strict=True)]
        for means, errors in zip(whole.tolist(), error.tolist(), strict=True)
    ]


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """The cosines (t, v) of a (t, p) and b (v, p); 0 for a gradient of 0."""
    tiny = torch.finfo(a.dtype).tiny
    units = [x / x.norm(dim=1, keepdim=True).clamp(min=tiny) for x in (a, b)]
    found: Tensor = units[0] @ units[1].T
    return found


class _Numbers:
    """Computes gradients of tasks as rows of numbers."""

    def __init__(
        self, params: Params, hyperparameters: Mapping[str, float], recipe: Recipe
    ) -> None:
        self._params, self._recipe = params, recipe
        self._hyper = {name: torch.tensor(value) for name, value in hyperparameters.items()}
        size = sum(value.numel() for value in params.values())
        self._sketch = _Sketch(size) if size > _LONGEST else None
        self._generator = torch.Generator().manual_seed(recipe.seed)

    def of(self, part: TaskGroup, pool: Pool, stream: int) -> Iterator[Tensor]:
        """For each task of the pool its gradients (groups, p), summed over groups of episodes."""
        drawn = pool.draw(fold(key_of(self._recipe), stream), self._episodes())
        for task, null_loss in enumerate(pool.null_losses):
            own = Episode(*(x[task] for x in drawn))
            chunks = [x.chunk(_GROUPS) for x in own]
            yield torch.stack(
                [
                    self._gradient(part, pool, Episode(*chunk), null_loss)
                    for chunk in zip(*chunks, strict=True)
                ]
            )

    def _episodes(self) -> int:
        way, query = bounds(self._recipe.way)[0], bounds(self._recipe.query)[0]
        wanted = max(_LEAST, math.ceil(_QUERIES / (way * query)))
        return _GROUPS * math.ceil(wanted / _GROUPS)

    def _gradient(self, part: TaskGroup, pool: Pool, own: Episode, null_loss: Tensor) -> Tensor:
        """The gradient (p,) of some episodes, without the part that any labels have."""
        params = {name: value.detach().requires_grad_() for name, value in self._params.items()}
        seen = with_states(part.frozen, hide_query_labels(own), dims=2)
        with torch.enable_grad():
            outputs = part.learner.logits(params, seen, self._hyper)
            losses = [
                pool.kind.losses(outputs, answers).mean() / null_loss
                for answers in (own.query_y, self._permuted(own.query_y))
            ]
            grads = torch.autograd.grad(
                losses[0] - losses[1],
                list(params.values()),
                allow_unused=True,
                materialize_grads=True,
            )
        flat = torch.cat([grad.flatten().float() for grad in grads])
        return flat if self._sketch is None else self._sketch(flat)

    def _permuted(self, labels: Tensor) -> Tensor:
        """The labels (e, q, ...) of each episode in random order."""
        order = torch.rand(labels.shape[:2], generator=self._generator).argsort(1)
        return labels[torch.arange(len(labels))[:, None], order]


class _Sketch:
    """Sums numbers (p,) with random signs into `_LONGEST` sums."""

    def __init__(self, size: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self._places = torch.randint(_LONGEST, (size,), generator=generator)
        self._signs = torch.randint(2, (size,), generator=generator).float() * 2 - 1

    def __call__(self, flat: Tensor) -> Tensor:
        return torch.zeros(_LONGEST).index_add(0, self._places, self._signs * flat)
