"""Puts the image and the text of each example into one input tensor.

inputs = [image features | text features | presence], presence = 1 with a text, 0 without.

The text features of an example without a text are 0 too. Such an example looks exactly like one
whose text is hidden, as in queries.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from fewshot.errors.inputs import ErrorDetail
from fewshot.tasks.base import Dataset

TEXT = "text"  # the column with the texts
QUERIES = ("image", "both")  # values of the option `query`


def paired(
    images: Tensor,
    texts: Sequence[str],
    text_features: Tensor,
    columns: Mapping[str, Any],
    *,
    query: str = "image",
    contents: Sequence[bytes] | None = None,
) -> Dataset:
    """A dataset of n images (n, ...) with their texts.

    texts: n texts; "" for an image without a text. They become the column `text`.
    text_features: (n, t) of the texts; those of "" are not used.
    columns: more columns, (n,) each.
    query: "image" if queries show their image only, "both" if they also show their text.
    contents: n digests, equal for equal images; by default the image features are compared.
    """
    present = torch.tensor([bool(text) for text in texts]).float().unsqueeze(1)
    flat = images.flatten(1).float()
    inputs = torch.cat([flat, text_features.float() * present, present], 1)
    table = pd.DataFrame({**columns, TEXT: list(texts)}, index=pd.RangeIndex(len(inputs)))
    digests = [row.numpy().tobytes() for row in flat] if contents is None else contents
    return Dataset(
        inputs,
        table,
        contents=tuple(digests),
        text_width=text_features.shape[1],
        query_text=query == "both",
    )


def errors_of_query(source: str, query: object) -> list[ErrorDetail]:
    """The error in the option `query` of a dataset, if any."""
    if query in QUERIES:
        return []
    rule = f"must be {' or '.join(QUERIES)}: what the queries show."
    return [ErrorDetail(f"{source}.query", rule, query)]
