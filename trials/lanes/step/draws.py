"""Draws the examples of many training steps at once."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

Draw = Callable[[Tensor, Tensor, Tensor], Any]

# Steps per draw. The cost of a draw hardly depends on its size.
AHEAD = 16


def draws(draw: Draw, seeds: Tensor, steps: Tensor, weights: Tensor, n: int) -> Iterator[Any]:
    """Yields the draws of `n` consecutive steps, starting at `steps` (l,).

    draw: the `draw` of an `Objective`, or an equivalent.
    """
    steps = steps.clone()  # the caller may increment it in place
    shape = (AHEAD, len(steps))
    for at in range(0, n, AHEAD):
        # Always AHEAD steps, needed or not: extra steps cost little, and a new shape would have to
        # be captured.
        ahead = torch.arange(at, at + AHEAD, device=steps.device)
        drawn = draw(
            seeds.expand(shape).flatten(),
            (steps + ahead[:, None]).flatten(),
            weights.expand(*shape, -1).flatten(0, 1),
        )
        leaves, structure = tree_flatten(drawn)
        by_step = [leaf.unflatten(0, shape) for leaf in leaves]
        for i in range(min(AHEAD, n - at)):
            yield tree_unflatten([leaf[i] for leaf in by_step], structure)
