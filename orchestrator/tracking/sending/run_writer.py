"""Writes the events of one MLflow run."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from orchestrator.tracking.events import RunEvent, common_tags
from orchestrator.tracking.mlflow_client import artifacts, connect

log = logging.getLogger(__name__)

SEARCH_ID = "fewtune.search_id"  # a tag of every run
# Error codes of events that MLflow will not accept on a retry either.
HOPELESS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST"}


class KnownRuns(Protocol):
    """Run ids by key."""

    runs: dict[str, str]

    def add(self, key: str, run_id: str) -> None: ...


class RunWriter:
    """Writes the events of runs through one client of MLflow, with as few requests as possible.

    Writing an event again changes nothing: its run is found by `run_ids` or by the tags
    `fewtune.key` and `fewtune.search_id`, metric points have fixed times, and parameters and tags
    get the same values.

    A run takes three requests: MLflow's interface has no shorter way, and none for several runs.

    known: whether `run_ids` has all runs of the search, so that others need not be looked for.
    rejected: the number of events that MLflow will never accept.
    """

    def __init__(self, tracking_uri: str, search_id: str, run_ids: KnownRuns) -> None:
        self.client = connect(tracking_uri)
        self.known = False
        self.rejected = 0
        self._uri, self._search_id, self._run_ids = tracking_uri, search_id, run_ids
        self._experiments: dict[str, str] = {}

    def own_runs(self) -> dict[str, str]:
        """The ids by key of the runs of this search; deletes runs that have another's key.

        Such a run was created by a request whose response was lost.
        """
        found: dict[str, str] = {}
        for run in runs_where(self.client, f"tags.`{SEARCH_ID}` = {quoted(self._search_id)}"):
            id = run.info.run_id
            if found.setdefault(run.data.tags["fewtune.key"], id) != id:
                self.client.delete_run(id)
        return found

    def write(self, batch: list[RunEvent]) -> None:
        """Write the events of one run to MLflow; events that it does not accept are rejected."""
        try:
            self._apply(batch)
        except Exception as error:
            if code(error) not in HOPELESS:
                raise
            if len(batch) == 1:
                self._reject(batch[0].id, error)
            else:
                for event in batch:
                    self.write([event])

    def experiment(self, name: str) -> str:
        """Id of the experiment; creates it if it does not exist."""
        if name not in self._experiments:
            existing = self.client.get_experiment_by_name(name)
            if existing is None:
                id = self.client.create_experiment(name, artifact_location=artifacts(self._uri))
            else:
                id = existing.experiment_id
                if existing.lifecycle_stage == "deleted":
                    self.client.restore_experiment(id)
            self._experiments[name] = id
        return self._experiments[name]

    def _apply(self, batch: list[RunEvent]) -> None:
        run_id, made = self._run(batch)
        self._log(run_id, batch, tags={} if made else tags_of(batch))
        status, at = next(((e.status, e.time) for e in reversed(batch) if e.status), (None, 0.0))
        if status == "RUNNING":
            if not made:
                self.client.update_run(run_id, status="RUNNING")
        elif status:
            self.client.set_terminated(run_id, status, end_time=ms(at))
        for path in (path for event in batch for path in event.artifacts):
            self._upload(run_id, Path(path))

    def _upload(self, run_id: str, path: Path) -> None:
        upload = self.client.log_artifacts if path.is_dir() else self.client.log_artifact
        try:
            upload(run_id, str(path))
        except FileNotFoundError as error:
            self._reject(str(path), error)

    def _reject(self, what: str, error: Exception) -> None:
        self.rejected += 1
        log.error("mlflow_rejects what=%s error=%s", what, error)

    def _log(self, run_id: str, batch: list[RunEvent], tags: Mapping[str, str]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        metrics = [
            Metric(name, value, ms(event.time), event.step)
            for event in batch
            for name, value in event.metrics.items()
        ]
        # Parameters keep their first value.
        values = {name: value for event in batch[::-1] for name, value in event.params.items()}
        params = [Param(name, value) for name, value in values.items()]
        labels = [RunTag(name, value) for name, value in tags.items()]
        if not (metrics or params or labels):
            return
        try:
            self.client.log_batch(run_id, metrics=metrics, params=params, tags=labels)
        except Exception as error:
            if not params or code(error) not in HOPELESS:
                raise
            # The search was resumed with a different configuration. The first value stays.
            there = self.client.get_run(run_id).data.params
            changed = [p.key for p in params if there.get(p.key, p.value) != p.value]
            log.warning("params_keep_first_value key=%s params=%s", batch[0].key, changed)
            params = [param for param in params if param.key not in there]
            self.client.log_batch(run_id, metrics=metrics, params=params, tags=labels)

    def _run(self, batch: list[RunEvent]) -> tuple[str, bool]:
        """Id of the events' run, and whether it was created by this call."""
        event = batch[0]
        if found := self._find(event.key, event):
            return found, False
        tags = {**common_tags(event), SEARCH_ID: self._search_id, **tags_of(batch)}
        if event.parent and (parent := self._find(event.parent, event)):
            tags["mlflow.parentRunId"] = parent
        start = event.time if event.start is None else event.start
        made = self.client.create_run(
            self.experiment(event.experiment),
            start_time=ms(start),
            tags=tags,
            run_name=event.name,
        )
        self._run_ids.add(event.key, made.info.run_id)
        return made.info.run_id, True

    def _find(self, key: str, event: RunEvent) -> str | None:
        if key in self._run_ids.runs or self.known:
            return self._run_ids.runs.get(key)
        filter = f"tags.`fewtune.key` = {quoted(key)} and "
        filter += f"tags.`{SEARCH_ID}` = {quoted(self._search_id)}"
        runs = self.client.search_runs(
            [self.experiment(event.experiment)], filter, order_by=["attributes.start_time ASC"]
        )
        for duplicate in runs[1:]:  # created by requests whose response was lost
            self.client.delete_run(duplicate.info.run_id)
        if not runs:
            return None
        self._run_ids.add(key, runs[0].info.run_id)
        return str(runs[0].info.run_id)


def runs_where(client: Any, filter: str) -> Iterator[Any]:
    """All runs of all experiments that match the filter, page by page; the oldest first."""
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    token = None
    while True:
        page = client.search_runs(
            ids,
            filter,
            max_results=5000,
            order_by=["attributes.start_time ASC"],
            page_token=token,
        )
        yield from page
        token = page.token
        if not token:
            return


def code(error: Exception) -> str:
    """MLflow's code of an error; empty for other errors."""
    return str(getattr(error, "error_code", ""))


def quoted(text: str) -> str:
    """The text as a literal of MLflow's filter language."""
    quote = '"' if "'" in text else "'"
    return quote + text.replace(quote, "") + quote


def ms(seconds: float) -> int:
    return round(seconds * 1000)


def tags_of(batch: list[RunEvent]) -> dict[str, str]:
    """The tags of the events of a run; of each tag the last value."""
    return {name: value for event in batch for name, value in event.tags.items()}
