"""What every test shares: quiet libraries, one thread, and real data where it is to be had."""

import os
from pathlib import Path

# Before Ray, MLflow or torch are imported: no telemetry, one thread each, and a token file of the
# user's home must not decide how the tests' clusters authenticate.
os.environ.update(
    RAY_AUTH_MODE="disabled",
    RAY_USAGE_STATS_ENABLED="0",
    MLFLOW_DISABLE_TELEMETRY="true",
    HF_HUB_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
    OPENBLAS_NUM_THREADS="1",
    OMP_NUM_THREADS="1",
)

import pytest
import torch

torch.set_num_threads(1)


def missing(what: str) -> None:
    """Skip, saying what is missing; in CI that is a failure instead."""
    if os.environ.get("CI"):
        pytest.fail(f"CI must have {what}.")
    pytest.skip(f"needs {what}")


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real datasets, from FEWTUNE_DATA."""
    folder = Path(os.environ.get("FEWTUNE_DATA", ""))
    if not os.environ.get("FEWTUNE_DATA") or not folder.is_dir():
        missing("the real datasets: FEWTUNE_DATA must name their folder")
    return folder
