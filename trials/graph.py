"""A step that changes tensors in place, replayed as one CUDA graph."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from trials.capture import Captured, Replay, tensors_of

Step = Callable[..., None]


def replayed(step: Step, device: torch.device) -> Step:
    """What `step` does, on a GPU with one launch for all of it.

    What it changes, and what it reads besides its arguments, must stay where it is: a graph knows
    addresses, not names. It must not look at values, nor copy anything from the host.
    """
    if device.type != "cuda":
        return step
    by = partial(cuda_graph, pool=torch.cuda.graph_pool_handle())
    # After the gradient in it, of which the graph then holds the shorter list.
    return Captured(step, by=by, after=2)


def cuda_graph(step: Step, arguments: tuple[Any, ...], pool: Any) -> Replay:
    """A replay of `step`, which copies its arguments to where it expects them.

    pool: memory for all that is gone when a step ends, which graphs that take turns can share.
    """
    leaves, structure = tree_flatten(arguments)
    own = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool):  # nothing is done yet
        step(*tree_unflatten(own, structure))
    places = tensors_of(own)

    def replay(given: list[Any]) -> None:
        torch._foreach_copy_(places, tensors_of(given))
        graph.replay()

    return replay
