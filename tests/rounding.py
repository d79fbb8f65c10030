"""How far two ways of computing the same number may differ, from dtype and number of operations.

An operation rounds by at most eps / 2 of what it gives, so a chain of n of them by n * eps / 2 of
the largest number in it (Higham, "Accuracy and stability of numerical algorithms", 2002, ch. 3),
and two such chains differ by at most twice that:

    |a - b| <= n * eps * condition * size

size: of the largest number that is summed, which may be far above the sum. condition: by how much
what follows enlarges a relative error of its inputs. A bound of this kind is the same on every
processor; a bound that was tuned on one is not.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def rounding(operations: float, dtype: torch.dtype = torch.float64, condition: float = 1) -> float:
    """The largest relative difference of two ways, of so many operations one after the other."""
    return operations * condition * torch.finfo(dtype).eps


def assert_same(
    found: Any, expected: Any, *, operations: float, condition: float = 1, size: float | None = None
) -> None:
    """Equal to the rounding of so many operations in the dtype of `expected`.

    found, expected: tensors, or dictionaries of them. size: of the largest number that was summed,
    by default the largest of `expected`.
    """
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert_same(found[name], value, operations=operations, condition=condition, size=size)
        return
    largest = _largest(expected) if size is None else size
    within = rounding(operations, expected.dtype, condition) * largest
    torch.testing.assert_close(found, expected, rtol=0, atol=within)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Of tensors that are made without saying which."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _largest(values: Tensor) -> float:
    return values.abs().max().item() if values.numel() else 0.0
