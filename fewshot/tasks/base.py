"""The interfaces of datasets of rows, from which pools of tasks draw episodes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import pandas as pd
import torch
from torch import Tensor

from fewshot.episodes import Episode
from fewshot.kinds import Kind
from fewshot.randomness import fold


@dataclass(frozen=True, eq=False)
class Dataset:
    """n examples.

    inputs: (n, ...), the inputs of a model: float32 features, float32 pixels in [0, 1], or int64
        ids.
    columns: n rows, one per example, with a plain RangeIndex: labels, groups, splits, texts.
    features: the columns that `inputs` are made from, if any; they can't be labels.
    text: the column whose texts `inputs` are made from, if any.
    contents: n digests, equal for examples with equal content, if `inputs` are embeddings, which
        differ in their last bits between batches.
    text_width: t > 0 if the examples have a text beside another modality. Their inputs are then
        (n, d) = [other features | t features of the text | presence], see
        `fewshot.tasks.two_modalities.pairs`.
    query_text: whether queries show their text. If not, supports alone show it.
    fixed: options with which other files are read as these examples were, if the examples decided
        about some.
    """

    inputs: Tensor
    columns: pd.DataFrame
    features: tuple[str, ...] = ()
    text: str | None = None
    contents: tuple[bytes, ...] | None = None
    text_width: int = 0
    query_text: bool = False
    fixed: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.columns):
            raise ValueError(
                "`inputs` and `columns` must have the same length, "
                f"got {len(self.inputs)} and {len(self.columns)}."
            )

    @property
    def n_hidden(self) -> int:
        """How many of the last features of an example its queries do not show."""
        return self.text_width + 1 if self.text_width and not self.query_text else 0

    def as_queries(self) -> Tensor:
        """The inputs (n, ...) as queries show them: hidden features are 0."""
        return without_last(self.inputs, self.n_hidden)


def without_last(x: Tensor, n_hidden: int) -> Tensor:
    """x (n, d) with zeros in the last `n_hidden` features; x itself if there are none."""
    if not n_hidden:
        return x
    shown = x.clone()
    shown[:, -n_hidden:] = 0
    return shown


class Pool(Protocol):
    """t tasks of one kind; episodes of all tasks are drawn in one pass.

    A draw is a pure function of its keys. An episode does not depend on the other episodes that are
    drawn with it.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the tasks."""

    @property
    def kind(self) -> Kind:
        """Classification or regression."""

    @property
    def null_losses(self) -> Tensor:
        """(t,), above 0: the loss of the best constant predictor of each task."""

    @property
    def features(self) -> tuple[int, ...]:
        """The shape of one example."""

    @property
    def sizes(self) -> dict[str, int]:
        """The number of examples of each task; empty if it is unlimited."""

    def draw(self, keys: Tensor, episodes: int) -> Episode:
        """`episodes` episodes of each task for each key: keys (...) -> (..., t, episodes, ...)."""

    def draw_of(self, keys: Tensor, task: Tensor) -> Episode:
        """One episode for each key (...), of the task with the index `task` (...) int64."""

    def to(self, device: torch.device) -> Self:
        """The same pool on another device."""


def episode_keys(keys: Tensor, n_tasks: int, episodes: int) -> Tensor:
    """One key for each episode of each task: keys (...) -> (..., n_tasks, episodes)."""
    keys = fold(keys[..., None], torch.arange(n_tasks, device=keys.device))
    return fold(keys[..., None], torch.arange(episodes, device=keys.device))
