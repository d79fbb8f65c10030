"""Where the state of searches lies on disk."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fewshot.errors.inputs import input_error

DEFAULT = "fewtune-runs"


@dataclass(frozen=True)
class Home:
    """The folder of all searches; `path` is absolute."""

    path: Path

    @classmethod
    def at(cls, path: str | None) -> "Home":
        """The home at `path`, else at FEWTUNE_HOME, else in the working directory."""
        chosen = Path(path or os.environ.get("FEWTUNE_HOME") or DEFAULT).expanduser().resolve()
        nearest = next(place for place in (chosen, *chosen.parents) if place.exists())
        if not nearest.is_dir():
            rule = (
                "must be a folder." if nearest == chosen else f"leads through the file {nearest}."
            )
            raise input_error("--home", rule, str(chosen), "Name another place.")
        return cls(chosen)

    @property
    def cache(self) -> Path:
        """Drawn, resized and embedded inputs, by content hash."""
        return self.path / "features"

    @property
    def tracking_uri(self) -> str:
        """MLflow's, from MLFLOW_TRACKING_URI, else the database in this home."""
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.path / 'mlflow.db'}"

    def storage(self, name: str) -> str:
        """Optuna's, from FEWTUNE_STORAGE (a database's URL), else a journal in this home."""
        url = os.environ.get("FEWTUNE_STORAGE")
        if url and "://" not in url:
            raise input_error(
                "FEWTUNE_STORAGE", "must be a database's URL.", url, "Unset it for a journal."
            )
        return url or str(self.path / "studies" / f"{name}.journal")

    def search(self, name: str) -> Path:
        """The folder of one search."""
        return self.path / "searches" / name

    def config(self, name: str) -> Path:
        return self.search(name) / "config.yaml"

    def identity(self, name: str) -> Path:
        """The file that says which search the folder is of."""
        return self.search(name) / "search.json"

    def checkpoints(self, name: str) -> Path:
        return self.search(name) / "checkpoints"

    def best(self, name: str) -> Path:
        """The folder to which a finished search is exported."""
        return self.search(name) / "best"

    def searches(self) -> list[str]:
        """Names of the searches that this home has."""
        return sorted(path.parent.name for path in self.path.glob("searches/*/config.yaml"))

    def is_owned(self, name: str) -> bool:
        """Whether a process runs the search now."""
        path = self.search(name) / "driver.lock"
        if not path.exists():
            return False
        with path.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return True
        return False

    @contextmanager
    def owned(self, name: str) -> Iterator[None]:
        """Hold the search: only one driver at a time. The lock goes with the process."""
        self.search(name).mkdir(parents=True, exist_ok=True)
        with (self.search(name) / "driver.lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.seek(0)
                remedy = f"Wait for process {file.read().strip() or '?'}, or give another name."
                raise input_error("name", "is being searched already.", name, remedy) from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield
