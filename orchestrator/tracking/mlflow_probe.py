"""Whether MLflow can be reached, and the schema version of its database."""

import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from orchestrator.config.passwords import redacted
from orchestrator.tracking.mlflow_client import connect


@dataclass(frozen=True)
class MLflowState:
    """fault: why it can't be used, in one line; "" if it can. schema: "" if it is not known."""

    fault: str
    schema: str


def state_of(tracking_uri: str) -> MLflowState:
    """The state of a tracking server or database. A missing SQLite database is not created."""
    schema = ""
    if tracking_uri.startswith("sqlite:"):
        database = Path(tracking_uri.removeprefix("sqlite:///"))
        if not database.exists():
            return MLflowState("", "none yet")
        try:
            schema = _schema(database)
        except sqlite3.Error as error:
            return MLflowState(f"{database} can't be read: {error}", "")
    try:
        connect(tracking_uri).search_experiments(max_results=1)
    except Exception as error:  # of MLflow, of its database, or of the network
        first = str(error).strip().partition("\n")[0] or type(error).__name__
        return MLflowState(redacted(first), schema)
    return MLflowState("", schema)


def _schema(database: Path) -> str:
    """The version of the schema; "" if MLflow did not create the database."""
    if not os.access(database, os.R_OK):
        raise sqlite3.OperationalError("no permission")
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return str(row[0]) if row else ""
