"""A function that a GPU does again and again, replayed as one CUDA graph."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from trials.lanes.step.capture import Captured, Replay, tensors_of

Found = TypeVar("Found")


def replayed(function: Callable[..., Found], device: torch.device) -> Callable[..., Found]:
    """What `function` does, on a GPU with one launch for all of it.

    What it changes, and what it reads besides its arguments, must stay where it is: a graph knows
    addresses, not names. It must not look at values, nor copy anything from the host. What it gives
    is overwritten when it is called again.
    """
    if device.type != "cuda":
        return function
    by = partial(cuda_graph, pool=torch.cuda.graph_pool_handle())
    # After what is captured in it, of which the graph then holds the shorter list.
    return Captured(function, by=by, after=2)


def cuda_graph(function: Callable[..., Any], arguments: tuple[Any, ...], pool: Any) -> Replay:
    """A replay of `function`, which copies its arguments to where it expects them.

    pool: memory that graphs which take turns can share, as what they give is used before the next.
    """
    leaves, structure = tree_flatten(arguments)
    own = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool):  # nothing is done yet
        found = function(*tree_unflatten(own, structure))
    places = tensors_of(own)

    def replay(given: list[Any]) -> Any:
        torch._foreach_copy_(places, tensors_of(given))
        graph.replay()
        return found

    return replay
