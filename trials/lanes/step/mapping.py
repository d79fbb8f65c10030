"""Maps a function of one lane over all lanes."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import tree_leaves, tree_map

from fewshot.functional import Params
from fewshot.models.base import AppliesToLanes, Model


def over_lanes(function: Callable[..., Tensor], *, shared: int | None = None) -> Callable[..., Any]:
    """A function that applies `function` to each lane; the first dimension of its arguments is l.

    shared: index of an argument that is the same for all lanes and has no lane dimension.

    A single lane is not mapped with `vmap`, because batched operations can be slower. A batched
    convolution, for example, copies its images into a different layout.
    """

    def mapped(*arguments: Any) -> Tensor:
        in_dims = tuple(None if place == shared else 0 for place in range(len(arguments)))
        leading = [value for value, dim in zip(arguments, in_dims, strict=True) if dim == 0]
        leaves = tree_leaves(leading)  # empty for a model without parameters, equal in all lanes
        if leaves and len(leaves[0]) > 1:
            return vmap(function, in_dims=in_dims)(*arguments)
        alone = (
            value if dim is None else tree_map(lambda part: part.squeeze(0), value)
            for value, dim in zip(arguments, in_dims, strict=True)
        )
        return function(*alone).unsqueeze(0)

    return mapped


def same_for_lanes(model: Model) -> Callable[[Params, Tensor], Tensor]:
    """A function from stacked parameters (l, ...) and x (b, *features) to outputs (l, b, n_out)."""
    if isinstance(model, AppliesToLanes):
        return lambda params, x: model.apply_to_lanes(params, x.unsqueeze(0))
    return over_lanes(model.apply, shared=1)
