"""Scores learners on the same test episodes of features that are already computed."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from tidy import Row, row
from torch import Tensor

from fewshot.episodes import Episode
from fewshot.learners.base import Learner
from fewshot.learners.learners import LEARNERS
from fewshot.metrics import accuracy, estimate
from fewshot.models.untrained import Untrained
from fewshot.randomness import fold
from fewshot.tasks.pool import Task, TaskPool, pool

EPISODES = 600
_AT_ONCE = 100
# Learners that need no training. The baseline is `prototypes`, class means of the features.
UNTRAINED = {
    "prototypes": "protonet",
    "matching": "matching",
    "ridge": "ridge",
    "simpleshot": "simpleshot",
}


def seed_by_seed(
    of_seed: Callable[[int, bool], list[Row]], seeds: int, quick: bool
) -> Iterator[Row]:
    """The rows of a problem, one seed after the other."""
    for seed in range(seeds):
        yield from (row | {"seed": seed} for row in of_seed(seed, quick))


def one_pool(inputs: Tensor, labels: np.ndarray, *, way: int, shot: int, query: int) -> TaskPool:
    """A single task with all inputs (n, ...); an episode may contain any of its classes (n,)."""
    task = Task("all", np.arange(len(labels)), labels, np.zeros(len(labels), dtype=np.int64))
    return pool([task], inputs, way=way, shot=shot, query=query)


def untrained(name: str, way: int) -> Learner:
    """The learner `name` on unchanged features, with its default options."""
    return LEARNERS[name](model=Untrained(), way=way)


@torch.no_grad()
def accuracies(learners: Mapping[str, Learner], test: TaskPool, seed: int) -> dict[str, Tensor]:
    """Accuracies in per cent (EPISODES,) of each learner on the same episodes; inductive."""
    found: dict[str, list[Tensor]] = {name: [] for name in learners}
    for part in range(EPISODES // _AT_ONCE):
        drawn = test.draw(fold(torch.tensor(seed), part), _AT_ONCE)
        episodes = Episode(*(tensor[0] for tensor in drawn))
        for name, learner in learners.items():
            params = learner.init(torch.Generator())
            logits = learner.logits(params, episodes, {})
            found[name].append(100 * accuracy(logits, episodes.query_y))
    return {name: torch.cat(parts) for name, parts in found.items()}


def rows_of(problem: str, found: Mapping[str, Tensor], baseline: str) -> list[Row]:
    """The accuracies, and the paired gain of each learner over the baseline."""
    rows = [row("papers", problem, name, "accuracy", estimate(a)) for name, a in found.items()]
    return rows + [
        row("papers", problem, name, "gain", estimate(a - found[baseline]))
        for name, a in found.items()
        if name != baseline
    ]
