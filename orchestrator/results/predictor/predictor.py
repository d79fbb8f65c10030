"""Predicts with an adapted model, which needs no examples any more.

```python
from orchestrator import Predictor

mine = Predictor.load("mine")          # a folder that `fewtune adapt` wrote
mine.predict(["my card is lost"])      # labels, or numbers
mine.predict_proba(["my card is lost"])  # a pandas DataFrame with one column for each class
```
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from fewshot.errors.inputs import InputError, input_error
from orchestrator.results.predictor.folder import PredictorParts, load_predictor
from orchestrator.results.predictor.readers import (
    Examples,
    Reader,
    ReadyInputs,
    named_by_options,
    reader_of,
)

_AT_ONCE = 512  # examples that are read and predicted together


class Predictor:
    """A model that is adapted to one task.

    Inputs of its methods are a list of texts, an array of images (n, h, w) or (n, h, w, 3) of
    uint8, an array of the features that the model reads, or a DataFrame whose columns are named as
    those of the file that the model learned from.
    """

    def __init__(self, parts: PredictorParts) -> None:
        self.parts = parts
        self.reader: Reader = reader_of(parts.data)

    @classmethod
    def load(cls, folder: str | Path, *, trust_code: bool = False) -> "Predictor":
        """The predictor in a folder that `fewtune adapt` or `fewtune export` wrote.

        trust_code: run code of your own that the folder names, such as a model or a learner.

        Raises InputError if the folder is not a predictor, with every error in its files.
        """
        return cls(load_predictor(Path(folder), trust_code=trust_code))

    @property
    def name(self) -> str:
        return self.parts.name

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes in the order of their columns; empty if the model predicts numbers."""
        return self.parts.classes

    def predict(self, inputs: Any, *, progress: bool = False) -> "np.ndarray[Any, Any]":
        """The most probable class (n,) of each example, or its number (n,).

        progress: show a progress bar. Raises InputError if the inputs do not fit.
        """
        return self.labels(self._outputs_of(inputs, progress=progress))

    def predict_proba(self, inputs: Any, *, progress: bool = False) -> pd.DataFrame:
        """The probability of each class: n rows with the index of the inputs, c columns.

        Raises InputError if the inputs do not fit, or if the model predicts numbers.
        """
        if self.parts.regresses:
            raise input_error("predict_proba", "is for classes; this model predicts numbers.")
        outputs = self._outputs_of(inputs, progress=progress)
        index = inputs.index if isinstance(inputs, pd.DataFrame | pd.Series) else None
        return pd.DataFrame(self.probabilities(outputs), columns=list(self.classes), index=index)

    def examples(self, path: str) -> Examples:
        """The examples of a file or a folder; raises InputError if they can't be read."""
        try:
            return self.reader.from_file(path)
        except InputError as error:
            raise named_by_options(error, self.parts.data.name) from error

    def outputs(
        self,
        examples: Examples,
        reader: Reader | None = None,
        advance: Callable[[int], None] = lambda n: None,
    ) -> Tensor:
        """Logits (n, c), calibrated, or numbers (n, 1); n may be 0.

        advance: called with the number of examples that are done since the last call.
        """
        reader, model = reader or self.reader, self.parts.model
        together = model.support is not None  # predictions depend on the other examples
        found: list[Tensor] = []
        waiting: list[Tensor] = []
        for start in range(0, len(examples), _AT_ONCE):
            part = examples.values[start : start + _AT_ONCE]
            x = self._fitting(reader.inputs(part))
            (waiting if together else found).append(x if together else model.outputs(x))
            advance(len(x))
        if waiting:
            found = [model.outputs(torch.cat(waiting))]
        if not found:
            return torch.zeros(0, len(self.classes) or 1)
        return self.parts.logit_scale * torch.cat(found)

    def labels(self, outputs: Tensor) -> "np.ndarray[Any, Any]":
        """The most probable class (n,) for logits (n, c), or the numbers (n,)."""
        if self.parts.regresses:
            return outputs[:, 0].numpy()
        names: np.ndarray[Any, Any] = np.array(self.classes, dtype=object)
        return names[outputs.argmax(-1).numpy()]  # type: ignore[no-any-return]

    @staticmethod
    def probabilities(outputs: Tensor) -> "np.ndarray[Any, Any]":
        """Probabilities (n, c) for logits (n, c)."""
        return outputs.double().softmax(-1).numpy()

    def _outputs_of(self, inputs: Any, *, progress: bool) -> Tensor:
        reader = self._reader_of(inputs)
        examples = reader.from_values(inputs)
        with tqdm(total=len(examples), unit=" examples", disable=not progress) as bar:
            return self.outputs(examples, reader, bar.update)

    def _reader_of(self, inputs: Any) -> Reader:
        ready = (
            isinstance(inputs, np.ndarray)
            and inputs.dtype.kind == "f"
            and inputs.shape[1:] == self.parts.features
            and self.parts.data.name != "table"  # whose reader also refuses numbers that are NaN
        )
        return ReadyInputs() if ready else self.reader

    def _fitting(self, x: Tensor) -> Tensor:
        if tuple(x.shape[1:]) != self.parts.features:
            rule = f"must have examples of the shape {self.parts.features}."
            remedy = "Use data of the kind that the model learned from."
            raise input_error("--data", rule, tuple(x.shape[1:]), remedy)
        return x
