"""Answers requests that are tables: what MLflow serves.

A predictor answers with a prediction for each row. An export that has not learned a task takes
labelled rows too: it learns from the rows with a label and predicts all rows of the request. The
last adapted model is kept for requests with the same examples.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from fewshot.errors.inputs import input_error
from orchestrator.config import loading as configs
from orchestrator.config.paths import with_absolute_export_paths
from orchestrator.config.sections.config import Config
from orchestrator.config.sections.tasks import TaskSection
from orchestrator.results.new_tasks.new_model import meta_learned, new_part
from orchestrator.results.predictor.folder import PredictorParts, is_predictor, load_predictor
from orchestrator.results.predictor.prediction import PROBABILITY
from orchestrator.results.predictor.predictor import Predictor
from orchestrator.results.predictor.readers import Reader, reader_of
from trials.contract import Component
from trials.programs.new_tasks.adapted_model import AdaptedModel

Answer = Callable[[Any], pd.DataFrame]


def served(folder: Path) -> Answer:
    """The function that answers requests with the predictor or export in `folder`."""
    if is_predictor(folder):
        predictor = Predictor(load_predictor(folder))
        return lambda rows: answer(predictor, rows)
    return _Learning(folder)


def answer(predictor: Predictor, rows: Any) -> pd.DataFrame:
    """The columns `prediction` and, for classes, `probability` and `p_CLASS` of all classes."""
    if not predictor.classes:
        return pd.DataFrame({"prediction": predictor.predict(rows).astype(float)})
    chances = predictor.predict_proba(rows)
    best = chances.to_numpy().argmax(1)
    own = {
        "prediction": np.array(predictor.classes, dtype=object)[best],
        "probability": chances.to_numpy().max(1),
    }
    named = chances.rename(columns=lambda name: f"{PROBABILITY}{name}").reset_index(drop=True)
    return pd.concat([pd.DataFrame(own), named], axis=1)


def exported_task(folder: Path) -> tuple[Config, Component, str, bool]:
    """Config, dataset without a path, label column of an export; and if it learns numbers."""
    config = configs.few_shot(configs.load_config(folder / "config.yaml", foreign=True))
    config = with_absolute_export_paths(config, folder)
    if "world" in config.kinds:
        rule = "is a policy for worlds, which can't be served as a predictor."
        raise input_error("DIR", rule, str(folder), "Load it with `Policy.load`.")
    like = min(config.tasks.validation, key=lambda task: task.regresses)
    if not isinstance(like, TaskSection):
        return config, Component(name="table", options={}), "label", True
    part = new_part(config.datasets[like.dataset], "", folder)
    options = {key: value for key, value in part.options.items() if key not in ("path", "labels")}
    return config, Component(name=part.name, options=options), like.label, like.regresses


class _Learning:
    """Learns from the labelled rows of a request, and predicts all its rows."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._config, self._data, self._label, self._regresses = exported_task(folder)
        self._last: tuple[pd.DataFrame, Predictor] | None = None

    def __call__(self, rows: pd.DataFrame) -> pd.DataFrame:
        if self._label not in rows:
            rule = f"must have the column {self._label!r}; rows with a label are the examples."
            raise input_error("inputs", rule, ", ".join(map(str, rows.columns)))
        labels = rows[self._label]
        known = labels.notna() & (labels.astype(str).str.strip() != "")
        support = rows[known].reset_index(drop=True)
        if self._last is None or not self._last[0].equals(support):
            self._last = support, self._learned(support)
        return answer(self._last[1], rows)

    def _learned(self, support: pd.DataFrame) -> Predictor:
        part, label = self._data, support[self._label]
        classes = () if self._regresses else tuple(sorted(set(label.astype(str))))
        if len(support) < 2 or (not self._regresses and len(classes) < 2):
            rule = "must have labelled rows of at least two classes, or two rows with numbers."
            raise input_error("inputs", rule, f"{len(support)} labelled rows")
        if part.name == "table" and not part.options.get("features"):
            names = [n for n in support.select_dtypes("number").columns if n != self._label]
            part = Component(name="table", options={**part.options, "features": names})
        reader: Reader = reader_of(part)
        x = reader.inputs(reader.from_values(support).values)
        if self._regresses:
            y = torch.tensor(pd.to_numeric(label).to_numpy(np.float32))[:, None]
        else:
            y = torch.tensor([classes.index(name) for name in label.astype(str)])
        made = meta_learned(self._config, self._folder, (x, y), regresses=self._regresses)
        model: AdaptedModel = made.model
        parts = PredictorParts(
            name=self._config.name,
            recipe=made.recipe,
            hyperparameters=made.hyperparameters,
            data=part,
            features=tuple(x.shape[1:]),
            ids=not x.is_floating_point(),
            classes=classes,
            label=self._label,
            logit_scale=made.scale,
            examples=len(support),
            model=model,
        )
        return Predictor(parts)
