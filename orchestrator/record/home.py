"""The folder that holds the state of all searches."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fewshot.errors.inputs import InputError, did_you_mean, input_error

DEFAULT = "fewtune-runs"


@dataclass(frozen=True)
class Home:
    """The folder of all searches; `path` is an absolute path."""

    path: Path

    @classmethod
    def at(cls, path: str | None) -> "Home":
        """The home at `path`, else at FEWTUNE_HOME, else `DEFAULT` in the working directory."""
        chosen = Path(path or os.environ.get("FEWTUNE_HOME") or DEFAULT).expanduser().resolve()
        nearest = next(place for place in (chosen, *chosen.parents) if place.exists())
        if not nearest.is_dir():
            rule = (
                "must be a folder."
                if nearest == chosen
                else f"must be a folder, but {nearest} is a file."
            )
            raise input_error("--home", rule, str(chosen), "Choose a different folder.")
        return cls(chosen)

    @property
    def cache(self) -> Path:
        """The cache folder of drawn, resized and embedded inputs, keyed by content hash."""
        return self.path / "features"

    @property
    def tracking_uri(self) -> str:
        """MLflow's tracking URI: MLFLOW_TRACKING_URI, else the database in this home."""
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.path / 'mlflow.db'}"

    def storage(self, name: str) -> str:
        """Optuna's storage: FEWTUNE_STORAGE (a database URL), else a journal in this home."""
        url = os.environ.get("FEWTUNE_STORAGE")
        if url and "://" not in url:
            raise input_error(
                "FEWTUNE_STORAGE", "must be a database URL.", url, "Unset it to use a journal."
            )
        return url or str(self.path / "studies" / f"{name}.journal")

    def search(self, name: str) -> Path:
        """The folder of one search."""
        return self.path / "searches" / name

    def config(self, name: str) -> Path:
        return self.search(name) / "config.yaml"

    def identity(self, name: str) -> Path:
        """The file with the identity of the search that the folder belongs to."""
        return self.search(name) / "search.json"

    def checkpoints(self, name: str) -> Path:
        return self.search(name) / "checkpoints"

    def enqueued(self, name: str) -> Path:
        """The folder of configurations that wait to become trials."""
        return self.search(name) / "enqueued"

    def best(self, name: str) -> Path:
        """The folder to which a finished search is exported."""
        return self.search(name) / "best"

    def searches(self) -> list[str]:
        """Names of the searches in this home."""
        return sorted(path.parent.name for path in self.path.glob("searches/*/config.yaml"))

    def unknown(self, name: str, hint: str = "") -> InputError:
        """The error for a name that no search in this home has, with the nearest name."""
        names = self.searches()
        rule = f"must be the name of a search in {self.path}; there are: "
        rule += f"{', '.join(names) or 'none yet'}."
        return input_error("NAME", rule, name, (did_you_mean(name, names) + hint).rstrip())

    def is_owned(self, name: str) -> bool:
        """Whether a process runs the search now."""
        path = self.search(name) / "driver.lock"
        if not path.exists():
            return False
        with path.open("rb") as file:  # readers may have no permission to write
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return True
        return False

    @contextmanager
    def owned(self, name: str) -> Iterator[None]:
        """Hold the lock of the search, so that it has one driver at a time.

        The lock is released when the process ends. Raises InputError if another process holds it.
        """
        self.search(name).mkdir(parents=True, exist_ok=True)
        with (self.search(name) / "driver.lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.seek(0)
                remedy = f"Wait for process {file.read().strip() or '?'}, or use a different name."
                rule = "is the name of a search that is running already."
                raise input_error("name", rule, name, remedy) from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield
