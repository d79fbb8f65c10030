"""A function of tensors, replayed as the flat list of the operations that it comes down to."""

import logging
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten

log = logging.getLogger(__name__)

Found = TypeVar("Found")

# Calls of one shape after which it is captured: by then they have cost what capturing does.
WORTH = 32


class Captured(Generic[Found]):
    """Does what `function` does, to the bit, without the layers of transforms that led to it.

    What vmap and grad dispatch costs as much as a small model's arithmetic, and is the same in each
    step: the operations depend on shapes alone. They are recorded once for each structure, shape
    and type of the arguments; a function that can't be recorded is called as it is.
    """

    def __init__(self, function: Callable[..., Found]) -> None:
        self._function = function
        self._calls: Counter[Hashable] = Counter()
        self._replays: dict[Hashable, Callable[..., Found]] = {}

    def __call__(self, *arguments: Any) -> Found:
        key = _shapes(arguments)
        if key in self._replays:
            return self._replays[key](*arguments)
        self._calls[key] += 1
        if self._calls[key] >= WORTH:
            self._replays[key] = self._capture(arguments)
        return self._function(*arguments)

    def _capture(self, arguments: tuple[Any, ...]) -> Callable[..., Found]:
        def function(*given: Any) -> Found:
            return self._function(*given)

        try:
            return make_fx(function)(*arguments)
        except RuntimeError as error:
            log.warning("not captured error=%s", str(error).partition("\n")[0])
            return self._function


def _shapes(arguments: tuple[Any, ...]) -> Hashable:
    leaves, structure = tree_flatten(arguments)
    return structure, tuple(
        (leaf.shape, leaf.dtype, leaf.device) if isinstance(leaf, Tensor) else leaf
        for leaf in leaves
    )
