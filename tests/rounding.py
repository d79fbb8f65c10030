"""Error bounds for comparisons, derived from the dtype and the number of operations.

Each operation has a relative error of at most eps / 2. A chain of n operations therefore has an
error of at most n * eps / 2 times its largest number (Higham, "Accuracy and stability of numerical
algorithms", 2002, ch. 3), and two ways of computing the same number differ by at most

    |a - b| <= n * eps * condition * size

size is the largest number that is summed; it may be far larger than the sum. condition is the
factor by which the computation enlarges a relative error of its inputs. This bound holds on every
processor. A tolerance that was tuned on one machine does not.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def rounding(operations: float, dtype: torch.dtype = torch.float64, condition: float = 1) -> float:
    """The largest relative difference between two chains of `operations` operations."""
    return operations * condition * torch.finfo(dtype).eps


def assert_same(
    found: Any, expected: Any, *, operations: float, condition: float = 1, size: float | None = None
) -> None:
    """Equal up to the rounding errors of `operations` operations in the dtype of `expected`.

    found, expected: tensors, or dictionaries of them. size: the largest number that was summed; by
    default the largest number in `expected`.
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
    """Create tensors with this dtype where the code names none."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _largest(values: Tensor) -> float:
    return values.abs().max().item() if values.numel() else 0.0
