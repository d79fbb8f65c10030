"""The code that MLflow logs with a model and runs to serve it; it contains no state.

MLflow executes this file instead of loading a pickled object ("models from code").
"""

from pathlib import Path
from typing import Any

from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from orchestrator.results.predictor.serving import served


class ServedModel(PythonModel):  # type: ignore[misc]
    """Answers a table with a table, see `orchestrator.results.predictor.serving`."""

    def load_context(self, context: Any) -> None:
        self._answer = served(Path(context.artifacts["folder"]))

    # Without type hints, which MLflow would take for a schema. The signature has the schema.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
        del context, params
        return self._answer(model_input)


set_model(ServedModel())
