"""Whether a database for studies can be reached. Nothing is written, and no table is created."""

import os
from pathlib import Path

from sqlalchemy import create_engine, inspect
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from orchestrator.config.passwords import redacted

_SECONDS = 10
# The option of a driver for the longest time to wait for a connection.
_WAITS = {"postgresql": "connect_timeout", "mysql": "connect_timeout"}


def unreachable(url: str) -> str:
    """Why the database can't be used, in one line without passwords; "" if it can be used."""
    try:
        parsed = make_url(url)
        kind = parsed.get_backend_name()
        if kind == "sqlite" and parsed.database and not Path(parsed.database).exists():
            folder = Path(parsed.database).absolute().parent  # connecting would create the file
            return "" if os.access(folder, os.W_OK) else f"{folder} can't be written"
        wait = {_WAITS[kind]: _SECONDS} if kind in _WAITS else {}
        engine = create_engine(parsed, connect_args=wait)
        try:
            inspect(engine).get_table_names()
        finally:
            engine.dispose()
    except ImportError as error:
        return f"the driver of this database is not installed: {error}"
    except SQLAlchemyError as error:
        # The first line has the reason; later ones have the statement and a link.
        return redacted(str(error).partition("\n")[0])
    return ""
