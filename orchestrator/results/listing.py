"""All searches of a home, and the removal of one."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from fewshot.errors.inputs import FewtuneError
from orchestrator.config import loading as configs
from orchestrator.record import identity
from orchestrator.record.heartbeat import driver_of
from orchestrator.record.home import Home
from orchestrator.record.search_records import read_records
from orchestrator.record.studies.study import delete_studies
from orchestrator.results.leaderboard import summarise
from orchestrator.results.liveness import ended_trials, with_driver
from orchestrator.tracking.sending.mlflow_sender import delete_runs


@dataclass(frozen=True)
class ListedSearch:
    """A search of a home.

    state: `complete`, `running`, `stalled`, `dead`, `stopped`, `failed` (see
        `record.heartbeat.Driver`; the last three can be resumed) or `unreadable`.
    trials: number of ended trials, out of `planned`. best: the best score, None before the first.
    age: seconds since the search was started.
    """

    name: str
    state: str
    trials: int
    planned: int
    best: float | None
    age: float


def list_searches(home: Home) -> list[ListedSearch]:
    """The searches of `home`, the most recent first."""
    return sorted((_listed(home, name) for name in home.searches()), key=lambda found: found.age)


def _listed(home: Home, name: str) -> ListedSearch:
    path = home.config(name)
    age = time.time() - _started(path)
    try:
        planned = configs.load_config(path).search.trials
        records = read_records(name, home)
    except FewtuneError:
        return ListedSearch(name, "unreadable", 0, 0, None, age)
    if records is None or not identity.belongs_to(home, name, records.search):
        return ListedSearch(name, "unreadable", 0, planned, None, age)
    summary = with_driver(summarise(name, records, top=1), driver_of(home, name))
    ended = ended_trials(summary.trials)
    best = summary.best.score.mean if summary.best else None
    if best is None and summary.top:
        best = summary.top[0].score
    return ListedSearch(name, summary.state, ended, planned, best, age)


def _started(config: Path) -> float:
    identity_file = config.with_name("search.json")
    return (identity_file if identity_file.exists() else config).stat().st_mtime


def delete_search(home: Home, name: str) -> None:
    """Delete a search: its runs in MLflow, then its studies, then its folder.

    The folder goes last, so that a deletion that was interrupted can be repeated. Raises InputError
    if this home has no such search or if a process runs it, FewtuneError if MLflow or the storage
    of the studies cannot be reached.
    """
    if name not in home.searches():
        raise home.unknown(name)
    with home.owned(name):
        own = identity.identity_of(home, name)
        records = read_records(name, home)
        if own is not None:
            delete_runs(home.tracking_uri, own.id, name)
        if records is not None and identity.belongs_to(home, name, records.search):
            delete_studies(home.storage(name), name)
        shutil.rmtree(home.search(name))
