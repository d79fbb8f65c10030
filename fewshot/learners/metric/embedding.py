"""Shared functions of the learners that compare embedded examples."""

import copy
import math
from typing import Protocol, TypeGuard, runtime_checkable

import torch
from torch import Tensor

from fewshot.episodes import Episode
from fewshot.errors.inputs import input_error
from fewshot.functional import Params
from fewshot.learners.base import Learner
from fewshot.models.base import Model
from fewshot.models.untrained import Untrained

_ROWS_AT_ONCE = 256


@runtime_checkable
class EmbeddingLearner(Learner, Protocol):
    """A learner that uses its model only to embed examples, each independently of the others.

    A learner that does so in meta-training only, and changes the embedding on a new task, sets
    `adapts_embedding = True`.
    """

    embedding: Model


def compares_embedded(learner: Learner) -> TypeGuard[EmbeddingLearner]:
    """Whether the learner needs only embedded examples of a new task."""
    adapts = getattr(learner, "adapts_embedding", False)
    return isinstance(learner, EmbeddingLearner) and not adapts


def of_embedded(learner: EmbeddingLearner) -> Learner:
    """A copy of the learner that takes examples that are already embedded."""
    twin = copy.copy(learner)
    twin.embedding = Untrained()
    return twin


def embed_episodes(model: Model, params: Params, episodes: Episode) -> tuple[Tensor, Tensor]:
    """Embedded support (b, s, d) and query (b, q, d), from one forward pass over all examples."""
    b = len(episodes.support_y)
    x = torch.cat([episodes.support_x, episodes.query_x], 1)
    embedded = model.apply(params, x.flatten(0, 1)).view(b, x.shape[1], -1)
    support, query = embedded.split([episodes.support_x.shape[1], episodes.query_x.shape[1]], 1)
    return support, query


def embed_rows(model: Model, params: Params, x: Tensor) -> Tensor:
    """Embedded examples (n, d) of x (n, *features), computed in parts that fit in memory."""
    return torch.cat([model.apply(params, part) for part in x.split(_ROWS_AT_ONCE)])


def log_of(option: str, value: float) -> Tensor:
    """The initial logarithm of a positive meta-parameter; raises InputError for a bad `value`."""
    if not 0 < value < math.inf:
        raise input_error(f"learner.{option}", "must be a number above 0.", value)
    return torch.tensor(math.log(value))
