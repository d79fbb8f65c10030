"""A function of one lane, made one of all lanes at once."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import tree_leaves, tree_map


def over_lanes(function: Callable[..., Tensor], *, shared: int | None = None) -> Callable[..., Any]:
    """What `function` gives for each lane of its arguments, which lead with l.

    shared: the place of an argument that is the same for all lanes, and does not.

    A single lane is not mapped: the batched form of an operation may be a slower one. That of a
    convolution copies its images into another layout.
    """

    def mapped(*arguments: Any) -> Tensor:
        in_dims = tuple(None if place == shared else 0 for place in range(len(arguments)))
        leading = [value for value, dim in zip(arguments, in_dims, strict=True) if dim == 0]
        leaves = tree_leaves(leading)  # none of a model without parameters: the same in all lanes
        if leaves and len(leaves[0]) > 1:
            return vmap(function, in_dims=in_dims)(*arguments)
        alone = (
            value if dim is None else tree_map(lambda part: part.squeeze(0), value)
            for value, dim in zip(arguments, in_dims, strict=True)
        )
        return function(*alone).unsqueeze(0)

    return mapped
