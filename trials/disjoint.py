"""Proof that what scores a model shares no example with what it learned from."""

from collections.abc import Mapping
from itertools import combinations

import numpy as np

from fewshot.faults import Fault


def shared_rows(sides: Mapping[str, Mapping[str, np.ndarray]]) -> list[Fault]:
    """A fault for every two sets of rows (n,) on different sides that have some in common.

    sides: the sets of each side by their places in the config. Those of one side may share.
    """
    return [
        Fault(
            place,
            f"must share no example with {other}.",
            f"{n} of {len(np.unique(rows))}",
            "Keep them apart by `where`, or say that it is meant: `tasks.overlap: true`.",
        )
        for ours, theirs in combinations(sides.values(), 2)
        for place, rows in theirs.items()
        for other, others in ours.items()
        if (n := len(np.intersect1d(rows, others)))
    ]
