"""A dataset: examples as one tensor, and a table of what is known of each."""

from dataclasses import dataclass

import pandas as pd
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Dataset:
    """n examples.

    inputs: (n, ...) what a model reads: float32 features or pixels in [0, 1], or int64 ids.
    columns: n rows, one per example, with a plain RangeIndex: labels, groups, splits, texts.
    """

    inputs: Tensor
    columns: pd.DataFrame

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.columns):
            raise ValueError(
                "`inputs` and `columns` must be of one length, "
                f"got {len(self.inputs)} and {len(self.columns)}."
            )
