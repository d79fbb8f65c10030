"""Registers an export or a predictor as a pyfunc model in MLflow's model registry."""

import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fewshot.errors.inputs import input_error
from orchestrator.results.predictor.folder import PredictorParts, is_predictor, load_predictor
from orchestrator.results.predictor.prediction import PROBABILITY
from orchestrator.results.predictor.serving import exported_task
from orchestrator.tracking.mlflow_client import artifacts, connect

ALIAS = "champion"
EXPERIMENT = "fewtune-models"  # of the logged models, apart from the runs of searches
_CODE = Path(__file__).with_name("served_model.py")
_TEXTS = ("I lost my card", "What is the exchange rate?")


def register_model(folder: Path, name: str, tracking_uri: str) -> int:
    """Log the folder as a model and register it as a new version of `name`; returns the version.

    The alias `champion` is moved to this version.

    Raises InputError if the model reads examples that are not in tables or arrays.
    """
    signature, example = _described(folder)
    client = connect(tracking_uri)
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    import mlflow

    experiment = client.get_experiment_by_name(EXPERIMENT)
    id = (
        client.create_experiment(EXPERIMENT, artifact_location=artifacts(tracking_uri))
        if experiment is None
        else experiment.experiment_id
    )
    # `set_tracking_uri` also sets or removes the environment variable.
    before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    mlflow.set_tracking_uri(tracking_uri)
    try:
        with mlflow.start_run(experiment_id=id, run_name=name):
            logged = mlflow.pyfunc.log_model(
                name="model",
                python_model=str(_CODE),
                artifacts={"folder": str(folder.resolve())},
                signature=signature,
                input_example=example,
                # Not inferred, which would run the model in a process of its own.
                pip_requirements=[f"fewtune=={version('fewtune')}"],
                registered_model_name=name,
            )
        found = int(logged.registered_model_version)
        client.set_registered_model_alias(name, ALIAS, str(found))
    finally:
        mlflow.set_tracking_uri(before)
    return found


def _described(folder: Path) -> tuple[Any, Any]:
    """Signature and input example of the model in `folder`."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    if is_predictor(folder):
        parts = load_predictor(folder)
        inputs, example = _of_predictor(parts)
        chances = [ColSpec("double", f"{PROBABILITY}{each}") for each in parts.classes]
        own = [ColSpec("string", "prediction"), ColSpec("double", "probability"), *chances]
        numbers = [ColSpec("double", "prediction")]
        return ModelSignature(inputs, Schema(own if parts.classes else numbers)), example
    _, part, label, regresses = exported_task(folder)
    if part.name != "text":
        rule = "is for exports of models of texts; others must first learn a task."
        remedy = "fewtune adapt DIR --data EXAMPLES --out mine, then fewtune export mine --mlflow."
        raise input_error("--mlflow", rule, part.name, remedy)
    column = str(part.options.get("text", "text"))
    kind = "double" if regresses else "string"
    inputs = Schema([ColSpec("string", column), ColSpec(kind, label, required=False)])
    labels = [1.0, 2.0, None] if regresses else ["card", "rate", None]
    example = pd.DataFrame({column: [*_TEXTS, "Is there a fee?"], label: labels})
    return ModelSignature(inputs), example


def _of_predictor(parts: PredictorParts) -> tuple[Any, Any]:
    from mlflow.types import ColSpec, Schema, TensorSpec

    options = parts.data.options
    if parts.data.name == "text":
        column = str(options.get("text", "text"))
        return Schema([ColSpec("string", column)]), pd.DataFrame({column: list(_TEXTS)})
    if parts.data.name == "table":
        names = [str(name) for name in options["features"]]
        example = pd.DataFrame(np.zeros((2, len(names))), columns=names)
        return Schema([ColSpec("double", name) for name in names]), example
    if parts.data.name == "images":
        colour = (3,) if len(parts.features) == 3 or parts.encoder else ()
        side = parts.features[-2:] if len(parts.features) > 1 else (32, 32)
        images = np.zeros((2, *side, *colour), np.uint8)
        shape = (-1, -1, -1, *colour)
        return Schema([TensorSpec(np.dtype("uint8"), shape)]), images
    rule = "is for models of texts, tables and images."
    raise input_error("--mlflow", rule, parts.data.name)
