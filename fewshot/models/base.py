"""The interface of a model, which is a pure function of parameters and inputs."""

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from fewshot.functional import Params


class Model(Protocol):
    """Parameters are a flat dictionary from names to tensors. `apply` is compatible with `vmap`.

    A class may set `fills_processor = True` if one lane already uses a CPU fully. Lanes are then
    trained one after the other on a CPU. Training many lanes of such a model together is not
    faster, or is even slower, because intermediate results no longer fit into the CPU caches.

    A class may set `pretrained = True` if its embeddings are useful without training. The same
    model without training is then one of the references of a search.
    """

    n_out: int  # width of what `apply` returns
    head: tuple[str, ...]  # names of the parameters of the last layer

    def init(self, generator: torch.Generator) -> Params:
        """Initial parameters, drawn from `generator`; always on the CPU."""

    def apply(self, params: Params, x: Tensor) -> Tensor:
        """Outputs (b, n_out) of inputs (b, *features)."""


@runtime_checkable
class AppliesToLanes(Protocol):
    """An extra method of a model that is faster for several lanes together than under `vmap`."""

    def apply_to_lanes(self, params: Params, x: Tensor) -> Tensor:
        """Outputs (l, b, n_out) of l lanes with stacked parameters (l, ...).

        x: (l, b, *features), or (1, b, *features) if it is the same for all lanes.
        """


@runtime_checkable
class CachesStates(Protocol):
    """Extra methods of a model with a frozen part: its hidden states are computed once per example.

    The parameters of the frozen part are not among those of the model: all lanes share them.
    """

    def cache_states(self, inputs: Tensor, cache: Path) -> None:
        """Compute the hidden states of inputs (n, *features), or read them from `cache`.

        The frozen part is moved to the device of the inputs. cache: a folder for files.
        """

    def states(self, x: Tensor) -> Tensor:
        """The hidden states of x (n, *features), a tensor (n, ...) without gradients."""

    def apply_states(self, params: Params, states: Tensor) -> Tensor:
        """Outputs (n, n_out) for hidden states (n, ...); compatible with `vmap`."""


@runtime_checkable
class StartsAtMeans(Protocol):
    """An extra method of a pretrained model with a new last layer for the classes of a task."""

    def head_at_means(self, params: Params, x: Tensor, labels: Tensor) -> Params:
        """The last layer that predicts the class whose mean embedding is nearest.

        x: examples (n, *features), with all classes; labels: (n,) int64.
        """


class OnStates:
    """A model with a frozen part, whose `apply` takes hidden states instead of inputs.

    `apply_to_lanes` still takes inputs.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self.n_out: int = model.n_out
        self.head: tuple[str, ...] = model.head

    def init(self, generator: torch.Generator) -> Params:
        params: Params = self._model.init(generator)
        return params

    def apply(self, params: Params, x: Tensor) -> Tensor:
        outputs: Tensor = self._model.apply_states(params, x)
        return outputs

    def apply_to_lanes(self, params: Params, x: Tensor) -> Tensor:
        outputs: Tensor = self._model.apply_to_lanes(params, x)
        return outputs
