"""The MLflow client; it creates MLflow's database if there is none."""

import fcntl
import logging
import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

ENVIRONMENT = {
    # If a response is lost and the request is repeated, MLflow creates a run twice. So MLflow's
    # client does not retry; the sender retries, after it has checked which runs exist.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_CONFIGURE_LOGGING": "false",
}


def connect(tracking_uri: str) -> Any:
    """An `MlflowClient`. Creates a missing database first, in one process at a time."""
    os.environ.update(ENVIRONMENT)
    for chatty in ("mlflow", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    from mlflow import MlflowClient

    database = _sqlite_file(tracking_uri)
    if database is None:
        return MlflowClient(tracking_uri=tracking_uri)
    database.parent.mkdir(parents=True, exist_ok=True)
    with database.with_name(database.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not database.exists():
            _set_up(database, tracking_uri)
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        client = MlflowClient(tracking_uri=tracking_uri)
        client.search_experiments(max_results=1)
    return client


def tune(tracking_uri: str) -> None:
    """Tell SQLite how large its tables are; other databases find out by themselves.

    Without this, the time in which SQLite sorts runs by a metric grows with the square of their
    number. It takes milliseconds, and the answer is kept in the database.
    """
    database = _sqlite_file(tracking_uri)
    if database is None or not database.exists():
        return
    # A database that is locked or read-only is still usable, only slower.
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA analysis_limit=1000")
        connection.execute("ANALYZE")


def artifacts(tracking_uri: str) -> str | None:
    """The artifact folder of the home's server, if the client writes to its database; else None."""
    database = _sqlite_file(tracking_uri)
    return None if database is None else (database.resolve().parent / "mlartifacts").as_uri()


def _set_up(database: Path, tracking_uri: str) -> None:
    """Create the database atomically: MLflow can't use a database with half of its tables.

    Creation takes seconds, and the process may be killed meanwhile.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    new = database.with_name(database.name + ".new")
    for left in database.parent.glob(new.name + "*"):
        left.unlink()
    SqlAlchemyStore(f"sqlite:///{new}", artifacts(tracking_uri)).engine.dispose()
    new.replace(database)


def _sqlite_file(tracking_uri: str) -> Path | None:
    return (
        Path(tracking_uri.removeprefix("sqlite:///"))
        if tracking_uri.startswith("sqlite:")
        else None
    )
