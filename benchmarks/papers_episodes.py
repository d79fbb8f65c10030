"""Scoring learners on the same test episodes of features that are computed already."""

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
# What needs no training. Class means of the features themselves are the baseline of all.
UNTRAINED = {
    "prototypes": "protonet",
    "matching": "matching",
    "ridge": "ridge",
    "simpleshot": "simpleshot",
}


def seed_by_seed(
    of_seed: Callable[[int, bool], list[Row]], seeds: int, quick: bool
) -> Iterator[Row]:
    """The rows of a problem that is solved for one seed after another."""
    for seed in range(seeds):
        yield from (row | {"seed": seed} for row in of_seed(seed, quick))


def one_pool(inputs: Tensor, labels: np.ndarray, *, way: int, shot: int, query: int) -> TaskPool:
    """A single task of all the inputs (n, ...), with any of its classes (n,) in an episode."""
    task = Task("all", np.arange(len(labels)), labels, np.zeros(len(labels), dtype=np.int64))
    return pool([task], inputs, way=way, shot=shot, query=query)


def untrained(name: str, way: int) -> Learner:
    """The learner `name` on features as they are, with the options that it begins with."""
    return LEARNERS[name](model=Untrained(), way=way)


@torch.no_grad()
def accuracies(learners: Mapping[str, Learner], test: TaskPool, seed: int) -> dict[str, Tensor]:
    """Per cent (EPISODES,) of each learner, all on the same episodes; queries are seen singly."""
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
    """Accuracies, and by how much each beats the baseline on the same episodes."""
    rows = [row("papers", problem, name, "accuracy", estimate(a)) for name, a in found.items()]
    return rows + [
        row("papers", problem, name, "gain", estimate(a - found[baseline]))
        for name, a in found.items()
        if name != baseline
    ]
