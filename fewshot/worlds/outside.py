"""Runs a rollout outside of function transforms, for worlds that are not functions of tensors."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from fewshot.functional import Params
from fewshot.worlds.rollout import Act, Rollout

Play = Callable[[Act, Params, Tensor | None, Tensor, Tensor, int], Rollout]


def outside(
    play: Play,
    act: Act,
    params: Params,
    memory: Tensor | None,
    problem: Tensor,
    keys: Tensor,
    trajectories: int,
) -> Rollout:
    """The rollout `play(act, params, memory, problem, keys, trajectories)`.

    `play` gets plain tensors with values. Under `vmap` it is called for each lane in turn.
    """
    own = {"problem": problem, "keys": keys} | ({} if memory is None else {"memory": memory})
    leaves, structure = tree_flatten((params, own))

    def played(*tensors: Tensor) -> tuple[Tensor, ...]:
        theirs, rest = tree_unflatten(tensors, structure)
        memory = rest.get("memory")
        return tuple(play(act, theirs, memory, rest["problem"], rest["keys"], trajectories))

    return Rollout(*_Outside.apply(played, *leaves))  # type: ignore[no-untyped-call]


class _Outside(torch.autograd.Function):
    """A function of tensors that `vmap` calls once for each lane."""

    @staticmethod
    def forward(function: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        found: tuple[Tensor, ...] = function(*tensors)
        return found

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, function: Any, *tensors: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        lanes = [
            [
                tensor if dim is None else tensor.select(dim, i)
                for tensor, dim in zip(tensors, in_dims[1:], strict=True)
            ]
            for i in range(info.batch_size)
        ]
        found = [_Outside.apply(function, *own) for own in lanes]  # type: ignore[no-untyped-call]
        stacked = tuple(torch.stack(parts) for parts in zip(*found, strict=True))
        return stacked, (0,) * len(stacked)
