"""What trials learn from at the steps to come, drawn for many steps at once."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

Draw = Callable[[Tensor, Tensor, Tensor], Any]

# Steps that are drawn in one go: what a draw costs hardly depends on how much is drawn.
AHEAD = 16


def draws(draw: Draw, seeds: Tensor, steps: Tensor, weights: Tensor, n: int) -> Iterator[Any]:
    """What is drawn at each of the `n` steps from `steps` (l,) on, one after the other.

    draw: an `Objective`'s, or what does the same.
    """
    steps = steps.clone()  # the caller may count on in it
    shape = (AHEAD, len(steps))
    for at in range(0, n, AHEAD):
        # As many each time, wanted or not: they cost little, and another shape a capture.
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
