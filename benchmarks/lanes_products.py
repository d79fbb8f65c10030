"""Times the matrix products of a step alone: the upper bound of its speed."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import flop_registry

_SECONDS = 0.02  # the time for which each product is measured
_PRODUCTS = (
    torch.ops.aten.mm,
    torch.ops.aten.addmm,
    torch.ops.aten.bmm,
    torch.ops.aten.baddbmm,
    torch.ops.aten.convolution,
    torch.ops.aten.convolution_backward,
)


class Products(TorchDispatchMode):
    """Context manager that counts the products that run inside it, by operation and shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[Any] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket in _PRODUCTS:
            leaves, structure = tree_flatten((args, kwargs or {}))
            self.found[function, structure, tuple(map(_shape, leaves))] += 1
        return function(*args, **(kwargs or {}))


def cost(products: Counter[Any], threads: int) -> tuple[float, float]:
    """Seconds of all products, each timed alone and repeatedly, and floating-point operations."""
    seconds = flops = 0.0
    for (function, structure, shapes), n in products.items():
        leaves = list(map(_like, shapes))
        args, kwargs = tree_unflatten(leaves, structure)
        call = partial(function, *args, **kwargs)
        on_gpu = any(isinstance(leaf, Tensor) and leaf.is_cuda for leaf in leaves)
        seconds += n * (_replayed(call) if on_gpu else _called(call, threads))
        found = call()
        count = flop_registry[function.overloadpacket]
        flops += n * count(*args, **kwargs, out_val=found)
    return seconds, flops


def _called(call: Callable[[], Any], threads: int) -> float:
    timer = Timer("call()", globals={"call": call}, num_threads=threads)
    return timer.blocked_autorange(min_run_time=_SECONDS).median


def _replayed(call: Callable[[], Any]) -> float:
    """Seconds in a CUDA graph; a separate launch takes longer than a small product itself."""
    from triton.testing import do_bench_cudagraph  # comes with a PyTorch that has CUDA

    return do_bench_cudagraph(call, rep=round(1000 * _SECONDS)) / 1000


def _shape(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor):
        return tuple(leaf) if isinstance(leaf, list) else leaf
    return torch.Size, tuple(leaf.shape), leaf.stride(), leaf.dtype, leaf.device


def _like(shape: Any) -> Any:
    if not (isinstance(shape, tuple) and shape and shape[0] is torch.Size):
        return shape
    _, size, stride, dtype, device = shape
    return torch.empty_strided(size, stride, dtype=dtype, device=device).normal_()
