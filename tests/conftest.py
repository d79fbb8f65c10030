"""What every test shares: quiet libraries, one thread, and real data where it is to be had."""

import fcntl
import os
import shutil
from collections.abc import Callable
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
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
# A slow or busy machine must not decide whether a test passes.
settings.register_profile(
    "any_machine",
    settings(settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow]),
)
settings.load_profile("any_machine")


def missing(what: str) -> None:
    """Skip, saying what is missing; in CI that is a failure instead."""
    if os.environ.get("CI"):
        pytest.fail(f"CI must have {what}.")
    pytest.skip(f"needs {what}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Laws that say nothing of a part are left out, rather than reported as skipped."""
    items[:] = [item for item in items if _applies(item)]


def _applies(item: pytest.Item) -> bool:
    rule = getattr(getattr(item, "cls", None), "applies", None)
    return rule is None or rule(item.originalname, item.callspec.params)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real datasets, from FEWTUNE_DATA."""
    folder = Path(os.environ.get("FEWTUNE_DATA", ""))
    if not os.environ.get("FEWTUNE_DATA") or not folder.is_dir():
        missing("the real datasets: FEWTUNE_DATA must name their folder")
    return folder


@pytest.fixture(scope="session")
def drawn_glyphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the glyphs as `quickstart` has them, which take some ten seconds to draw.

    Drawn once for all processes of xdist, whose temporary folders lie side by side.
    """
    from fewshot.tasks import glyphs

    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "drawn_glyphs"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        glyphs.load(cache=folder)
    return folder


@pytest.fixture(scope="session")
def home_with_glyphs(drawn_glyphs: Path) -> Callable[[Path], Path]:
    """Makes a home in which the glyphs are drawn already."""

    def made(home: Path) -> Path:
        shutil.copytree(drawn_glyphs, home / "features")
        return home

    return made
