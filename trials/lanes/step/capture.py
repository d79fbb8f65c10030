"""A function of tensors, replayed as the flat list of the operations that it comes down to."""

import logging
import operator
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tag, Tensor
from torch._ops import OpOverload
from torch.fx import Graph, GraphModule, Node
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten
from torch.utils.weak import WeakTensorKeyDictionary

Flat = Callable[..., Sequence[Tensor]]  # of tensors
Replay = Callable[[list[Any]], Any]  # of the leaves of a call's arguments

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
    """Does what a function does without what it takes to get there.

    by: makes a replay of a function and the arguments of a call of it.
    after: times `WORTH`, the calls of one structure, shapes and types after which it does so; what
    holds others that are captured has to wait for them.

    A function that can't be captured is called as it is.
    """

    def __init__(
        self,
        function: Callable[..., Found],
        *,
        by: Callable[[Callable[..., Found], tuple[Any, ...]], Replay] | None = None,
        after: int = 1,
    ) -> None:
        self._function, self._by, self._after = function, by or flat_list, after
        self._calls: Counter[Hashable] = Counter()
        self._replays: dict[Hashable, Replay] = {}

    def __call__(self, *arguments: Any) -> Found:
        if isinstance(_get_current_dispatch_mode(), _Recorder):  # it is part of what is captured
            return self._function(*arguments)
        leaves, structure = tree_flatten(arguments)
        key = structure, tuple(map(_shape, leaves))
        replay = self._replays.get(key)
        if replay is None:
            self._calls[key] += 1
            if self._calls[key] != self._after * WORTH or not (replay := self._capture(arguments)):
                return self._function(*arguments)
            self._replays[key] = replay
        return replay(leaves)  # type: ignore[no-any-return]

    def _capture(self, arguments: tuple[Any, ...]) -> Replay | None:
        try:
            return self._by(self._function, arguments)
        except _NotRecordable as reason:
            log.info("not captured reason=%s", reason)
        except Exception as error:  # if it is the function's own, calling it says so
            log.warning("not captured error=%s", str(error).partition("\n")[0])
        return None


def flat_list(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Replay:
    """What does what a pure function does, to the bit, without layers of transforms and of Python.

    What they dispatch costs as much as a small model's arithmetic, and is the same in each step:
    the operations depend on shapes alone.
    """
    leaves, _ = tree_flatten(arguments)
    recorder = _Recorder(leaves)
    with recorder:
        found = function(*arguments)
    return recorder.replay(leaves, found)


class _NotRecordable(Exception):
    """The function does not do the same in each call, for all one can tell."""


class _Recorder(TorchDispatchMode):
    """Notes each operation that runs while it is entered, below all transforms."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # there is no compiler to keep out, and importing it takes a second

    def __init__(self, leaves: list[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._graph, self._constants = Graph(), torch.nn.Module()
        self._nodes: Any = WeakTensorKeyDictionary()
        self._parts: Any = WeakTensorKeyDictionary()  # what a split gave, by each: all, and of what
        self._checks: set[Node] = set()  # operations that do nothing but check
        for i, leaf in enumerate(leaves):
            if isinstance(leaf, Tensor):
                self._nodes[leaf] = self._graph.placeholder(f"leaf_{i}")

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
        same = self._same(func, args)
        if same is not None and _layout(found) == _layout(same):
            self._nodes[found] = self._nodes[same]
        else:
            self._name(found, self._graph.call_function(func, *inputs))
        if func is _aten.split_with_sizes.default:
            for part in found:
                self._parts[part] = found, args
        return found

    def _name(self, found: Any, node: Node) -> None:
        """From here on `node` stands for what an operation gave."""
        if isinstance(found, Tensor):
            self._nodes[found] = node
        elif isinstance(found, tuple | list):
            for i, part in enumerate(found):
                if isinstance(part, Tensor):  # and not one that nobody asked for
                    self._nodes[part] = self._graph.call_function(operator.getitem, (node, i))
        elif found is None:
            self._checks.add(node)
        else:
            raise _NotRecordable(f"{node.target} gives {type(found).__name__}")

    def _same(self, func: OpOverload, args: Any) -> Tensor | None:
        """What the result has the numbers of: a view of its base, all parts of what was split."""
        if func in _VIEWS:
            return args[0]  # type: ignore[no-any-return]
        if func is not _aten.cat.default or args[0][0] not in self._parts:
            return None
        parts, (whole, _, *dim) = self._parts[args[0][0]]
        is_all = len(parts) == len(args[0]) and all(map(operator.is_, parts, args[0]))
        return whole if is_all and dim == list(args[1:]) else None

    def _node(self, value: Any) -> Any:
        """What stands for a tensor in the graph: where it came from, or else a constant."""
        if not isinstance(value, Tensor):
            return value
        if value not in self._nodes:
            name = f"constant_{len(list(self._constants.buffers()))}"
            self._constants.register_buffer(name, value)
            self._nodes[value] = self._graph.get_attr(name)
        return self._nodes[value]

    def replay(self, leaves: list[Any], found: Any) -> Replay:
        """What does the same to other leaves, and gives what `found` is to them."""
        given, structure = tree_flatten(found)
        self._graph.output(tuple(map(self._node, given)))
        self._graph.eliminate_dead_code(lambda node: node in self._checks or node.is_impure())
        flat: Flat = GraphModule(self._constants, self._graph)
        if not self._checks:  # which TorchScript would leave out
            flat = _without_python(flat, tensors_of(leaves))
        return lambda other: tree_unflatten(flat(*tensors_of(other)), structure)


def _without_python(flat: Flat, leaves: list[Tensor]) -> Flat:
    """What does the same operations without Python between them, if it can be had."""
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # PyTorch would have one compile instead, for seconds
            traced = torch.jit.trace(flat, tuple(leaves), check_trace=False)
    except RuntimeError:  # it knows no lists of truth values; operations that take them are long
        return flat

    def run(*leaves: Tensor) -> Sequence[Tensor]:
        # Not optimised, which would be another program after some calls.
        with torch.no_grad(), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            return traced(*leaves)  # type: ignore[no-any-return]

    return run


def tensors_of(leaves: list[Any]) -> list[Tensor]:
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def _looks(func: OpOverload, args: Any) -> bool:
    """Whether what comes out, or how much of it, depends on values."""
    if func is _aten.index.Tensor:  # it does where places are given as true and false
        return any(index is not None and index.dtype == torch.bool for index in args[1])
    return not _LOOKS.isdisjoint(func.tags)


def _shape(leaf: Any) -> Hashable:
    return (leaf.shape, leaf.dtype, leaf.device) if isinstance(leaf, Tensor) else leaf


def _layout(tensor: Tensor) -> Hashable:
    return tensor.shape, tensor.stride()
