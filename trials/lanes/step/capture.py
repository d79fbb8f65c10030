"""Captures a function of tensors as a flat list of operations, which is faster to replay."""

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

Flat = Callable[..., Sequence[Tensor]]  # takes tensors
Replay = Callable[[list[Any]], Any]  # takes the pytree leaves of a call's arguments

log = logging.getLogger(__name__)

Found = TypeVar("Found")

# A function is captured at its 8th call with the same shapes. Faster calls soon save the cost.
WORTH = 8

_aten = torch.ops.aten
# Operations that do nothing if their input already has the requested shape.
_VIEWS = {
    _aten.alias.default,
    _aten.detach.default,
    _aten.expand.default,
    _aten.slice.Tensor,
    _aten.view.default,
    _aten._unsafe_view.default,
}
# Operations whose output, or its shape, depends on values: it may differ between calls.
_LOOKS = {Tag.data_dependent_output, Tag.dynamic_output_shape}


class Captured(Generic[Found]):
    """A function that is replaced by a faster replay after some calls.

    by: makes a replay from the function and the arguments of a call.
    after: capture at call `after` * WORTH with arguments of the same structure, shapes and types.
        A function that contains captured functions needs a larger value, to be captured later.

    A function that can't be captured is called normally.
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
        if isinstance(_get_current_dispatch_mode(), _Recorder):  # an outer function is captured
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
        except Exception as error:  # an error of the function itself is raised again by its call
            log.warning("not captured error=%s", str(error).partition("\n")[0])
        return None


def flat_list(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Replay:
    """A replay of a pure function, bit-identical to it, without function transforms and Python.

    For a small model, dispatching through transforms and Python costs as much time as its
    arithmetic. The dispatched operations are the same in each step, because they depend only on
    shapes.
    """
    leaves, _ = tree_flatten(arguments)
    recorder = _Recorder(leaves)
    with recorder:
        result = function(*arguments)
    return recorder.replay(leaves, result)


class _NotRecordable(Exception):
    """The operations of the function may differ between calls."""


class _Recorder(TorchDispatchMode):
    """Records each operation that runs inside its context, below all function transforms."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # True would import the compiler, which takes a second and is not used here

    def __init__(self, leaves: list[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._graph, self._constants = Graph(), torch.nn.Module()
        self._nodes: Any = WeakTensorKeyDictionary()
        # For each part of a split: all its parts, and the arguments of the split.
        self._parts: Any = WeakTensorKeyDictionary()
        self._checks: set[Node] = set()  # operations that only check something
        for i, leaf in enumerate(leaves):
            if isinstance(leaf, Tensor):
                self._nodes[leaf] = self._graph.placeholder(f"leaf_{i}")

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        if _looks(func, args):
            raise _NotRecordable(f"{func} depends on values")
        if func is _aten.lift_fresh.default:
            func = _aten.lift_fresh_copy.default  # a copy, because the constant may be written to
        inputs = tree_map(self._node, (args, kwargs))
        result = func(*args, **kwargs)
        same = self._same(func, args)
        if same is not None and _layout(result) == _layout(same):
            self._nodes[result] = self._nodes[same]
        else:
            self._name(result, self._graph.call_function(func, *inputs))
        if func is _aten.split_with_sizes.default:
            for part in result:
                self._parts[part] = result, args
        return result

    def _name(self, result: Any, node: Node) -> None:
        """Record that `node` is the result of an operation."""
        if isinstance(result, Tensor):
            self._nodes[result] = node
        elif isinstance(result, tuple | list):
            for i, part in enumerate(result):
                if isinstance(part, Tensor):  # None for an output that was not requested
                    self._nodes[part] = self._graph.call_function(operator.getitem, (node, i))
        elif result is None:
            self._checks.add(node)
        else:
            raise _NotRecordable(f"{node.target} returns {type(result).__name__}")

    def _same(self, func: OpOverload, args: Any) -> Tensor | None:
        """The tensor whose numbers the result repeats, if any.

        It is the base of a view, or a split tensor whose parts are all concatenated again.
        """
        if func in _VIEWS:
            return args[0]  # type: ignore[no-any-return]
        if func is not _aten.cat.default or args[0][0] not in self._parts:
            return None
        parts, (whole, _, *dim) = self._parts[args[0][0]]
        is_all = len(parts) == len(args[0]) and all(map(operator.is_, parts, args[0]))
        return whole if is_all and dim == list(args[1:]) else None

    def _node(self, value: Any) -> Any:
        """The graph node of a tensor; a tensor of unknown origin becomes a constant."""
        if not isinstance(value, Tensor):
            return value
        if value not in self._nodes:
            name = f"constant_{len(list(self._constants.buffers()))}"
            self._constants.register_buffer(name, value)
            self._nodes[value] = self._graph.get_attr(name)
        return self._nodes[value]

    def replay(self, leaves: list[Any], result: Any) -> Replay:
        """A replay of the recorded operations for other leaves, with the structure of `result`."""
        outputs, structure = tree_flatten(result)
        self._graph.output(tuple(map(self._node, outputs)))
        self._graph.eliminate_dead_code(lambda node: node in self._checks or node.is_impure())
        flat: Flat = GraphModule(self._constants, self._graph)
        if not self._checks:  # TorchScript would drop operations that only check
            flat = _without_python(flat, tensors_of(leaves))
        return lambda other: tree_unflatten(flat(*tensors_of(other)), structure)


def _without_python(flat: Flat, leaves: list[Tensor]) -> Flat:
    """The same operations as a TorchScript program, if possible; else `flat` itself."""
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # it recommends torch.compile, which takes seconds
            traced = torch.jit.trace(flat, tuple(leaves), check_trace=False)
    except RuntimeError:  # no lists of booleans in TorchScript; their operations are slow anyway
        return flat

    def run(*leaves: Tensor) -> Sequence[Tensor]:
        # Not optimised, because the optimiser would change the program after some calls.
        with torch.no_grad(), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            return traced(*leaves)  # type: ignore[no-any-return]

    return run


def tensors_of(leaves: list[Any]) -> list[Tensor]:
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def _looks(func: OpOverload, args: Any) -> bool:
    """Whether the output, or its shape, depends on values."""
    if func is _aten.index.Tensor:  # only with a boolean mask
        return any(index is not None and index.dtype == torch.bool for index in args[1])
    return not _LOOKS.isdisjoint(func.tags)


def _shape(leaf: Any) -> Hashable:
    return (leaf.shape, leaf.dtype, leaf.device) if isinstance(leaf, Tensor) else leaf


def _layout(tensor: Tensor) -> Hashable:
    return tensor.shape, tensor.stride()
