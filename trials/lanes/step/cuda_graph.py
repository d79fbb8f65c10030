"""Replays a function on a GPU as one CUDA graph."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from trials.lanes.step.capture import Captured, Replay, tensors_of

Found = TypeVar("Found")


def replayed(function: Callable[..., Found], device: torch.device) -> Callable[..., Found]:
    """`function` itself; on a GPU its replay as one CUDA graph, which needs only one launch.

    A graph stores memory addresses. Tensors that the function changes, and tensors that it reads
    besides its arguments, must therefore stay at their addresses. The function must not depend on
    values, and must not copy from the host. Its result is overwritten by the next call.
    """
    if device.type != "cuda":
        return function
    by = partial(cuda_graph, pool=torch.cuda.graph_pool_handle())
    # Captured after the functions inside it, so that the graph holds their shorter lists.
    return Captured(function, by=by, after=2)


def cuda_graph(function: Callable[..., Any], arguments: tuple[Any, ...], pool: Any) -> Replay:
    """A replay of `function` as a CUDA graph; it copies arguments to the addresses of the graph.

    pool: memory shared by graphs. It is safe if each result is used before the next graph runs.
    """
    leaves, structure = tree_flatten(arguments)
    own = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool):  # operations are recorded here, not executed
        result = function(*tree_unflatten(own, structure))
    places = tensors_of(own)

    def replay(given: list[Any]) -> Any:
        torch._foreach_copy_(places, tensors_of(given))
        graph.replay()
        return result

    return replay
