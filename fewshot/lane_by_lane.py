"""A mapped function that is called for one lane after the other, not for all of them at once."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import TransformType, get_interpreter_stack


def lane_by_lane(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """What `function` gives, where operations of all lanes at once are slower than those of each.

    That is if this is called in one `vmap` and nothing else; or else it is as if there were no such
    thing.
    """
    if _transforms() != [TransformType.Vmap]:
        return function(*tensors)
    found: Tensor = _LaneByLane.apply(function, *tensors)  # type: ignore[no-untyped-call]
    return found


def is_mapped() -> bool:
    """Whether this is called for many lanes (or problems of an inner loop) at once."""
    return TransformType.Vmap in _transforms()


def _transforms() -> list[TransformType]:
    return [transform.key() for transform in get_interpreter_stack() or []]


class _LaneByLane(torch.autograd.Function):
    """Says what mapping it is. Its gradients are those of the operations in it."""

    @staticmethod
    def forward(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        raise AssertionError("it is mapped")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        raise AssertionError("it is mapped")

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        function: Callable[..., Tensor],
        *tensors: Tensor,
    ) -> tuple[Tensor, int]:
        of_lanes = [
            [tensor] * info.batch_size if dim is None else tensor.unbind(dim)
            for tensor, dim in zip(tensors, in_dims[1:], strict=True)
        ]
        return torch.stack([function(*own) for own in zip(*of_lanes, strict=True)]), 0
