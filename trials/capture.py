"""A function of tensors, replayed as the flat list of the operations that it comes down to."""

import logging
import operator
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

import torch
from torch import Tag, Tensor
from torch._ops import OpOverload
from torch.fx import Graph, GraphModule
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

log = logging.getLogger(__name__)

Found = TypeVar("Found")

# Calls of one shape after which it is captured: what that costs is soon saved.
WORTH = 8

_aten = torch.ops.aten
# What they do to a tensor that has the shape they ask for is nothing.
_VIEWS = {
    _aten.alias.default,
    _aten.detach.default,
    _aten.expand.default,
    _aten.slice.Tensor,
    _aten.view.default,
    _aten._unsafe_view.default,
}
# Of numbers that a function computed, and of how many of them it found: not the same in each call.
_LOOKS = {Tag.data_dependent_output, Tag.dynamic_output_shape}


class Captured(Generic[Found]):
    """Does what `function` does, to the bit, without the layers of transforms that led to it.

    What vmap and grad dispatch costs as much as a small model's arithmetic, and is the same in each
    step: the operations depend on shapes alone. They are recorded once for each structure, shape
    and type of the arguments; a function that can't be recorded is called as it is.
    """

    def __init__(self, function: Callable[..., Found]) -> None:
        self._function = function
        self._calls: Counter[Hashable] = Counter()
        self._replays: dict[Hashable, Callable[..., Found] | None] = {}

    def __call__(self, *arguments: Any) -> Found:
        leaves, structure = tree_flatten(arguments)
        key = structure, tuple(map(_shape, leaves))
        if key not in self._replays:
            self._calls[key] += 1
            if self._calls[key] >= WORTH:
                self._replays[key] = self._capture(arguments, leaves)
        replay = self._replays.get(key)
        return self._function(*arguments) if replay is None else replay(*leaves)

    def _capture(self, arguments: Any, leaves: list[Any]) -> Callable[..., Found] | None:
        recorder = _Recorder(leaves)
        try:
            with recorder:
                found = self._function(*arguments)
            return recorder.replay(found)
        except Exception as error:  # if it is the function's own, calling it says so
            log.warning("not captured error=%s", str(error).partition("\n")[0])
            return None


class _NotRecordable(Exception):
    """The function does not do the same in each call, for all one can tell."""


class _Recorder(TorchDispatchMode):
    """Notes each operation that runs while it is entered, below all transforms."""

    def __init__(self, leaves: list[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._graph, self._constants = Graph(), torch.nn.Module()
        self._nodes: Any = WeakTensorKeyDictionary()
        for i, leaf in enumerate(leaves):
            node = self._graph.placeholder(f"leaf_{i}")
            if isinstance(leaf, Tensor):
                self._nodes[leaf] = node

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        if _looks(func, args):
            raise _NotRecordable(f"{func} looks at values")
        if func is _aten.lift_fresh.default:
            func = _aten.lift_fresh_copy.default  # of a constant, which may then be written to
        inputs = tree_map(self._node, (args, kwargs))
        found = func(*args, **kwargs)
        if func in _VIEWS and _layout(found) == _layout(args[0]):
            self._nodes[found] = inputs[0][0]
            return found
        node = self._graph.call_function(func, *inputs)
        if isinstance(found, Tensor):
            self._nodes[found] = node
        elif isinstance(found, tuple | list):
            for i, part in enumerate(found):
                if isinstance(part, Tensor):  # and not one that nobody asked for
                    self._nodes[part] = self._graph.call_function(operator.getitem, (node, i))
        elif found is not None:  # as of a check, which is done again
            raise _NotRecordable(f"{func} gives {type(found).__name__}")
        return found

    def _node(self, value: Any) -> Any:
        """What stands for a tensor in the graph: where it came from, or else a constant."""
        if not isinstance(value, Tensor):
            return value
        if value not in self._nodes:
            name = f"constant_{len(self._nodes)}"
            self._constants.register_buffer(name, value)
            self._nodes[value] = self._graph.get_attr(name)
        return self._nodes[value]

    def replay(self, found: Any) -> GraphModule:
        """What does the same to other leaves, and gives what `found` is to them."""
        self._graph.output(tree_map(self._node, found))
        self._graph.eliminate_dead_code()
        return GraphModule(self._constants, self._graph)


def _looks(func: OpOverload, args: Any) -> bool:
    """Whether what comes out, or how much of it, depends on values."""
    if func is _aten.index.Tensor:  # it does where places are given as true and false
        return any(index is not None and index.dtype == torch.bool for index in args[1])
    return not _LOOKS.isdisjoint(func.tags)


def _shape(leaf: Any) -> Hashable:
    return (leaf.shape, leaf.dtype, leaf.device) if isinstance(leaf, Tensor) else leaf


def _layout(tensor: Tensor) -> Hashable:
    return tensor.shape, tensor.stride()
