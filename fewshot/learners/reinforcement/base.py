"""The interface of a learner of worlds."""

from typing import Protocol

import torch
from torch import Tensor

from fewshot.functional import Hyperparameters, Params
from fewshot.worlds.base import World
from fewshot.worlds.rollout import Before


class WorldLearner(Protocol):
    """Pure functions, which `torch.func.vmap` maps over the parameters of many trials.

    One episode is one problem of a world, with trajectories of the learner's own policy. Episodes
    are given as keys (b,); all randomness is a function of them. `hyperparameters` names the
    scalars that the learner reads. They are passed as 0-dimensional tensors.
    """

    hyperparameters: tuple[str, ...]

    def init(self, generator: torch.Generator) -> Params:
        """Initial meta-parameters."""

    def meta_losses(
        self, params: Params, world: World, spread: float, keys: Tensor, hyper: Hyperparameters
    ) -> Tensor:
        """The loss (b,) of b problems, for meta-training; returns are divided by `spread`."""

    def adapt(
        self, params: Params, world: World, keys: Tensor, hyper: Hyperparameters
    ) -> tuple[Params, Tensor]:
        """Parameters (b, ...) adapted to b problems, and mean returns (b, k + 1) of a trajectory.

        The returns are those after 0, 1, .., k steps of adaptation. The last ones count.
        """

    def memory(self) -> Tensor | None:
        """The memory (m,) before a first step; None for a policy without a memory."""

    def act(
        self, params: Params, memory: Tensor | None, seen: Tensor, before: Before
    ) -> tuple[Tensor, Tensor | None]:
        """The likeliest action for one observation (o,), and the memory after it."""
