"""Where examples come from: a dataset of rows, and a pool of tasks that draws episodes."""

from dataclasses import dataclass
from typing import Protocol, Self

import pandas as pd
import torch
from torch import Tensor

from fewshot.episodes import Episode
from fewshot.kinds import Kind
from fewshot.randomness import fold


@dataclass(frozen=True, eq=False)
class Dataset:
    """n examples.

    inputs: (n, ...) what a model reads: float32 features or pixels in [0, 1], or int64 ids.
    columns: n rows, one per example, with a plain RangeIndex: labels, groups, splits, texts.
    features: those of the columns that `inputs` are made of, which can't be what is to be told.
    text: the column whose texts `inputs` are made of, if they are made of texts.
    """

    inputs: Tensor
    columns: pd.DataFrame
    features: tuple[str, ...] = ()
    text: str | None = None

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.columns):
            raise ValueError(
                "`inputs` and `columns` must be of one length, "
                f"got {len(self.inputs)} and {len(self.columns)}."
            )


class Pool(Protocol):
    """t tasks of one kind, from which episodes of all of them are drawn in one pass.

    A draw is a function of its keys: an episode is the same alone as among others.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """Of the tasks."""

    @property
    def kind(self) -> Kind:
        """What is predicted."""

    @property
    def null_losses(self) -> Tensor:
        """(t,), above 0: the loss of the best constant predictor of each task."""

    @property
    def features(self) -> tuple[int, ...]:
        """Shape of one example."""

    @property
    def sizes(self) -> dict[str, int]:
        """Number of examples of each task; empty where there is no end to them."""

    def draw(self, keys: Tensor, episodes: int) -> Episode:
        """`episodes` episodes of each task for each key: keys (...) -> (..., t, episodes, ...)."""

    def draw_of(self, keys: Tensor, task: Tensor) -> Episode:
        """An episode of the task (...) int64 for each key (...)."""

    def to(self, device: torch.device) -> Self:
        """The same on another device."""


def episode_keys(keys: Tensor, n_tasks: int, episodes: int) -> Tensor:
    """A key for each episode of each task: keys (...) -> (..., n_tasks, episodes)."""
    keys = fold(keys[..., None], torch.arange(n_tasks, device=keys.device))
    return fold(keys[..., None], torch.arange(episodes, device=keys.device))
