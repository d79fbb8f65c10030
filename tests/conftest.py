"""What every test shares: quiet libraries, one thread, and real data where it is to be had."""

import fcntl
import gc
import os
import shutil
from collections.abc import Callable, Iterator
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

gc.disable()  # until all tests are collected: few of the objects that are made till then end


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        return  # xdist's workers run the tests; this process needs none of what they import
    from hypothesis import HealthCheck, settings

    # A slow or busy machine must not decide whether a test passes.
    settings.register_profile(
        "any_machine",
        settings(settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow]),
    )
    settings.load_profile("any_machine")


def pytest_collection_finish() -> None:
    """Keep the garbage collector from visiting the modules and the tests again and again."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()


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
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a file or folder once for all processes of xdist.

    The temporary folders of these processes lie side by side.
    """
    own = tmp_path_factory.getbasetemp()
    folder = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def path_of(name: str, make: Callable[[Path], object]) -> Path:
        path = folder / name
        with (folder / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                make(path)
        return path

    return path_of


@pytest.fixture(scope="session")
def drawn_glyphs(made_once: Callable[..., Path]) -> Path:
    """The folder of the glyphs as `quickstart` has them, which take some ten seconds to draw."""
    from fewshot.tasks import glyphs

    return made_once("drawn_glyphs", lambda folder: glyphs.load(cache=folder))


@pytest.fixture(scope="session", autouse=True)
def mlflow_set_up(made_once: Callable[..., Path]) -> Iterator[Callable[..., None]]:
    """How MLflow's database is set up, which takes seconds. In this process it is copied instead.

    Processes that a test starts set theirs up themselves.
    """
    from orchestrator.tracking import mlflow_client

    set_up = mlflow_client._set_up

    def copy(database: Path, tracking_uri: str) -> None:
        made = made_once("mlflow.db", lambda path: set_up(path, f"sqlite:///{path}"))
        shutil.copy(made, database)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlflow_client, "_set_up", copy)
        yield set_up


@pytest.fixture(scope="session", autouse=True)
def short_measurements() -> Iterator[None]:
    """Times a step for an instant only. No test depends on how fast this machine is."""
    from trials.lanes import capacity

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(capacity, "_MEASURED", 0.01)
        patch.setattr(capacity, "_STEPS", {"cpu": 1, "cuda": 1})
        yield


@pytest.fixture(scope="session")
def migrations_read_once() -> Iterator[None]:
    """Optuna reads its migrations whenever a database is opened, for a tenth of a second."""
    from optuna.storages._rdb.storage import _VersionManager

    with pytest.MonkeyPatch.context() as patch:
        read, found = _VersionManager.get_head_version, list[str]()

        def once(manager: _VersionManager) -> str:
            if not found:
                found.append(read(manager))
            return found[0]

        patch.setattr(_VersionManager, "get_head_version", once)
        yield


@pytest.fixture(scope="session")
def study_database(made_once: Callable[..., Path], migrations_read_once: None) -> Path:
    """A database that Optuna has set up, which takes seconds. Tests copy it."""
    from optuna.storages import RDBStorage

    return made_once("study_database", lambda path: RDBStorage(f"sqlite:///{path}"))


@pytest.fixture(scope="session")
def home_with_glyphs(drawn_glyphs: Path) -> Callable[[Path], Path]:
    """Makes a home in which the glyphs are drawn already."""

    def made(home: Path) -> Path:
        shutil.copytree(drawn_glyphs, home / "features")
        return home

    return made


@pytest.fixture(scope="session")
def home_set_up(
    home_with_glyphs: Callable[[Path], Path], mlflow_set_up: Callable[..., None]
) -> Callable[[Path], Path]:
    """Makes a home for a search in a process of its own: the glyphs and MLflow's database exist.

    Such a process would draw and migrate for some fifteen seconds before its first trial.
    """
    from orchestrator.record.home import Home
    from orchestrator.tracking.mlflow_client import connect

    def made(home: Path) -> Path:
        connect(Home(home_with_glyphs(home)).tracking_uri)  # here, where the database is copied
        return home

    return made
