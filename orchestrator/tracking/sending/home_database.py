"""Writes runs straight into the MLflow database of a home folder, many in one transaction."""

import math
import sqlite3
import sys
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from orchestrator.tracking.events import RunEvent, clean, common_tags
from orchestrator.tracking.mlflow_client import sqlite_file
from orchestrator.tracking.run_ids import RunIds
from orchestrator.tracking.sending.run_writer import SEARCH_ID, ms, tags_of

# The columns that MLflow 3.17 and 3.18 have. Where they differ, MLflow's client writes.
_COLUMNS: Mapping[str, frozenset[str]] = {
    "runs": frozenset(
        (
            *("run_uuid", "name", "source_type", "source_name", "entry_point_name", "user_id"),
            *("status", "start_time", "end_time", "source_version", "lifecycle_stage"),
            *("artifact_uri", "experiment_id", "deleted_time"),
        )
    ),
    "tags": frozenset(("key", "value", "run_uuid")),
    "params": frozenset(("key", "value", "run_uuid")),
    "metrics": frozenset(("key", "value", "timestamp", "run_uuid", "step", "is_nan")),
    "latest_metrics": frozenset(("key", "value", "timestamp", "step", "is_nan", "run_uuid")),
}
_NEW_RUN = """INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id,
status, start_time, end_time, source_version, lifecycle_stage, artifact_uri, experiment_id)
VALUES (?, ?, 'UNKNOWN', '', '', ?, ?, ?, ?, '', 'active', ?, ?)"""
_METRIC = """INSERT OR IGNORE INTO metrics (key, value, timestamp, step, is_nan, run_uuid)
VALUES (?, ?, ?, ?, ?, ?)"""
_LATEST = """INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid)
VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (key, run_uuid) DO UPDATE SET
(value, timestamp, step, is_nan) = (excluded.value, excluded.timestamp, excluded.step,
excluded.is_nan) WHERE (excluded.step, excluded.timestamp, excluded.value) > (step, timestamp,
value)"""
_TAG = "INSERT OR REPLACE INTO tags (key, value, run_uuid) VALUES (?, ?, ?)"
_PARAM = "INSERT INTO params (key, value, run_uuid) VALUES (?, ?, ?)"
_OWN_RUNS = """SELECT named.value, named.run_uuid FROM tags AS named
JOIN tags AS searched ON searched.run_uuid = named.run_uuid
JOIN runs ON runs.run_uuid = named.run_uuid
WHERE named.key = 'fewtune.key' AND searched.key = ? AND searched.value = ?
AND runs.lifecycle_stage = 'active'"""
_SECONDS_FOR_LOCKS = 20.0  # as MLflow
# MLflow shortens longer values, or refuses them.
_LONGEST_VALUE = 5000
# A tag that MLflow keeps in a column of the run too.
_NAME = "mlflow.runName"
_LARGEST = sys.float_info.max
_Row = tuple[object, ...]


class HomeDatabase:
    """Writes events of runs in SQL, with the same rows as MLflow's client.

    MLflow's client needs some 20 ms of CPU time for a run, almost all of it in Python, and has no
    request for several runs. In SQL a run takes a fraction of a millisecond.

    Writing an event again changes nothing, as with `RunWriter`. Runs are in the database when their
    ids are in `run_ids`, and not the other way round.

    path: the SQLite file, whose tables MLflow has created. experiment: gives the id of an
    experiment by its name.
    """

    def __init__(
        self,
        path: str,
        search_id: str,
        run_ids: RunIds,
        experiment: Callable[[str], str],
    ) -> None:
        self._path, self._search_id, self._run_ids = path, search_id, run_ids
        self._experiment = experiment
        self._locations: dict[str, str] = {}  # of the artifacts, by the id of the experiment

    def own_runs(self) -> dict[str, str]:
        """The ids by key of the runs of this search that are not deleted."""
        with closing(self._connect()) as database:
            return dict(database.execute(_OWN_RUNS, (SEARCH_ID, self._search_id)).fetchall())

    def write(self, batches: Iterable[list[RunEvent]]) -> list[list[RunEvent]]:
        """Write the batches, each of one run, in one transaction.

        Returns those that only MLflow's client can write: with artifacts, for a run that is deleted
        or that gets its parameters or its name a second time, or with values that are too long.
        """
        rows, left, waiting = _Rows({}), list[list[RunEvent]](), set[str | None]()
        batches = list(batches)
        # Through MLflow's client, which may write, so before this transaction begins.
        experiments = {n: self._experiment(n) for n in {batch[0].experiment for batch in batches}}
        with closing(self._connect()) as database:
            database.execute("BEGIN IMMEDIATE")
            active = self._active(database, {batch[0].key for batch in batches})
            for batch in batches:
                key, parent = batch[0].key, batch[0].parent
                deleted = key in self._run_ids.runs and key not in active
                if deleted or not _is_plain(batch) or {key, parent} & waiting:
                    waiting.add(key)  # what follows, too, so that the order stays
                    left.append(batch)
                elif key in active or key in rows.made:
                    if any(event.params for event in batch):
                        waiting.add(key)
                        left.append(batch)
                    else:
                        rows.add_to(active.get(key) or rows.made[key], batch)
                else:
                    experiment = experiments[batch[0].experiment]
                    location = self._location(database, experiment)
                    rows.add_run(batch, self._tags(batch, rows), experiment, location)
            rows.insert(database)
            database.execute("COMMIT")
        self._run_ids.add_all(rows.made)
        return left

    def _active(self, database: sqlite3.Connection, keys: set[str]) -> dict[str, str]:
        """The ids by key of the known runs that are not deleted."""
        ids = {key: self._run_ids.runs[key] for key in keys if key in self._run_ids.runs}
        query = "SELECT 1 FROM runs WHERE run_uuid = ? AND lifecycle_stage = 'active'"
        return {key: id for key, id in ids.items() if database.execute(query, (id,)).fetchone()}

    def _tags(self, batch: list[RunEvent], rows: "_Rows") -> dict[str, str]:
        """The tags of a new run."""
        event = batch[0]
        tags = {**common_tags(event), SEARCH_ID: self._search_id, **tags_of(batch)}
        above = event.parent or ""
        parent = rows.made.get(above) or self._run_ids.runs.get(above)
        return tags | ({"mlflow.parentRunId": parent} if parent else {})

    def _location(self, database: sqlite3.Connection, experiment: str) -> str:
        if experiment not in self._locations:
            query = "SELECT artifact_location FROM experiments WHERE experiment_id = ?"
            self._locations[experiment] = database.execute(query, (experiment,)).fetchone()[0]
        return self._locations[experiment]

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=_SECONDS_FOR_LOCKS, isolation_level=None)


@dataclass
class _Rows:
    """The rows of a transaction. made: the ids by key of the new runs."""

    made: dict[str, str]
    runs: list[_Row] = field(default_factory=list)
    ends: list[_Row] = field(default_factory=list)
    tags: list[_Row] = field(default_factory=list)
    params: list[_Row] = field(default_factory=list)
    metrics: list[_Row] = field(default_factory=list)

    def add_run(
        self, batch: list[RunEvent], tags: Mapping[str, str], experiment: str, location: str
    ) -> None:
        """A new run. location: that of the artifacts of its experiment."""
        event, run_id = batch[0], uuid.uuid4().hex
        self.made[event.key] = run_id
        status, end = _status(batch) or ("RUNNING", None)
        start = ms(event.time if event.start is None else event.start)
        user, artifacts = tags["mlflow.user"], f"{location}/{run_id}/artifacts"
        run = (run_id, event.name, user, status, start, end, artifacts, int(experiment))
        self.runs.append(run)
        named = {**tags, _NAME: event.name}
        self.tags += [(name, value, run_id) for name, value in named.items()]
        # Parameters keep their first value.
        params = {name: value for event in batch[::-1] for name, value in event.params.items()}
        self.params += [(name, value, run_id) for name, value in params.items()]
        self._add_metrics(run_id, batch)

    def add_to(self, run_id: str, batch: list[RunEvent]) -> None:
        """More of a run that exists."""
        status = _status(batch)
        if status is not None:
            self.ends.append((*status, run_id))
        self.tags += [(name, value, run_id) for name, value in tags_of(batch).items()]
        self._add_metrics(run_id, batch)

    def _add_metrics(self, run_id: str, batch: list[RunEvent]) -> None:
        self.metrics += [
            (name, _stored(value), ms(event.time), event.step, math.isnan(value), run_id)
            for event in batch
            for name, value in event.metrics.items()
        ]

    def insert(self, database: sqlite3.Connection) -> None:
        database.executemany(_NEW_RUN, self.runs)
        query = "UPDATE runs SET status = ?, end_time = coalesce(?, end_time) WHERE run_uuid = ?"
        database.executemany(query, self.ends)
        database.executemany(_TAG, self.tags)
        database.executemany(_PARAM, self.params)
        database.executemany(_METRIC, self.metrics)
        database.executemany(_LATEST, self.metrics)


def home_database(
    tracking_uri: str, search_id: str, run_ids: RunIds, experiment: Callable[[str], str]
) -> HomeDatabase | None:
    """The database at a tracking URI; None if only MLflow's client can write to it."""
    path = sqlite_file(tracking_uri)
    if path is None or not path.exists():
        return None
    with closing(sqlite3.connect(path)) as database:
        for table, columns in _COLUMNS.items():
            found = database.execute(f"PRAGMA table_info({table})").fetchall()
            if {column[1] for column in found} != columns:
                return None
    return HomeDatabase(str(path), search_id, run_ids, experiment)


def _is_plain(batch: Sequence[RunEvent]) -> bool:
    """Whether MLflow accepts everything in the batch as it is, as rows of the five tables."""
    return not any(
        event.artifacts
        or _NAME in event.tags
        or any(not name or clean(name) != name for part in _parts(event) for name in part)
        or any(len(v) > _LONGEST_VALUE for v in (*event.params.values(), *event.tags.values()))
        for event in batch
    )


def _parts(event: RunEvent) -> tuple[Mapping[str, object], ...]:
    return event.metrics, event.params, event.tags


def _status(batch: Sequence[RunEvent]) -> tuple[str, int | None] | None:
    """The last status in the batch, with the time if it is an end; None if there is no status."""
    for event in reversed(batch):
        if event.status:
            return event.status, None if event.status == "RUNNING" else ms(event.time)
    return None


def _stored(value: float) -> float:
    """MLflow stores NaN as 0, beside a flag, and infinities as the largest numbers."""
    return 0.0 if math.isnan(value) else max(-_LARGEST, min(_LARGEST, value))
