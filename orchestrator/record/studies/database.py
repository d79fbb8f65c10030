"""Studies in a database: opening it, and waiting while it does not answer."""

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import optuna
from optuna.storages import RDBStorage
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError

from fewshot.errors.disk import disk_problem
from fewshot.errors.inputs import FewtuneError, input_error
from orchestrator.config.passwords import redacted

log = logging.getLogger(__name__)

T = TypeVar("T")

# A search waits this many seconds for a database that it has used before.
PATIENCE = 600.0
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 10.0
# libpq's options, so that a server that vanished is noticed after seconds and not after minutes.
_POSTGRESQL = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,  # milliseconds
}


def open_database(url: str) -> RDBStorage:
    """The storage at a database URL; raises InputError if it can't be used now."""
    try:
        return RDBStorage(url, engine_kwargs={"connect_args": _options(url)})
    except (ImportError, SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        reason = str(error).partition("\n")[0]  # the rest has the URL, maybe with a password
        remedy = "Check the URL."
        if isinstance(error, ImportError) and "psycopg" in reason:
            remedy = "Install the driver: `pip install 'fewtune[postgres]'`."
        raise input_error("FEWTUNE_STORAGE", f"can't be used: {reason}", None, remedy) from None


def _options(url: str) -> dict[str, Any]:
    """Options of the connection that the URL does not set."""
    try:
        parsed = make_url(url)
        of_libpq = parsed.get_backend_name() == "postgresql" and "psycopg" in (
            parsed.get_dialect().driver
        )
    except (SQLAlchemyError, ImportError):
        return {}  # RDBStorage says what is wrong with it
    own = parsed.query if of_libpq else _POSTGRESQL
    return {name: value for name, value in _POSTGRESQL.items() if name not in own}


def patiently(operation: Callable[[], T], again: Callable[[], T] | None = None) -> T:
    """The result of an operation on a storage; repeats it while the database does not answer.

    again: what is called in the repetitions, `operation` by default. An operation that failed may
    have been carried out, if only its confirmation was lost.

    Raises FewtuneError if the database does not answer for `PATIENCE` seconds.
    """
    began, wait = time.monotonic(), _FIRST_WAIT
    repeated = False
    while True:
        try:
            result = (again or operation)() if repeated else operation()
        except Exception as error:
            reason = _away(error)
            if reason is None:
                raise
            if not repeated:
                log.warning("database_away waiting_for_at_most=%.0f error=%s", PATIENCE, reason)
            if time.monotonic() - began > PATIENCE:
                raise FewtuneError(
                    f"The database of FEWTUNE_STORAGE has not answered for {PATIENCE:.0f} s: "
                    f"{reason}. Nothing that was recorded is lost. When it answers again, continue "
                    "the search with `--resume`."
                ) from None
            repeated = True
            time.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)
        else:
            if repeated:
                log.warning("database_back after=%.0f", time.monotonic() - began)
            return result


def _away(error: BaseException) -> str | None:
    """Why the database does not answer, in one line; None for any other error.

    SQLite has no server: its errors do not pass with time, except for locks, for which it waits
    itself. A full disk of the server is reported as such.
    """
    if disk_problem(error):
        return None
    for each in _chain(error):
        gone = isinstance(each, OperationalError | InterfaceError) or (
            isinstance(each, DBAPIError) and each.connection_invalidated
        )
        if gone and not type(each.orig).__module__.startswith("sqlite3"):
            return redacted(str(each.orig).strip().partition("\n")[0])
    return None


def _chain(error: BaseException | None) -> Iterator[Any]:
    """The error and its causes."""
    while error is not None:
        yield error
        error = error.__cause__


def trial_id(storage: RDBStorage, study: int, number: int) -> int | None:
    """The id of the trial with this number in a database; None if there is no such trial."""
    try:
        return storage.get_trial_id_from_study_id_trial_number(study, number)
    except KeyError:
        return None
