"""The sender, which writes the events of a search to MLflow in the background.

A search never waits for MLflow. MLflow is a view; the study is the source of truth.
"""

import json
import logging
import random
import re
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fewshot.errors.inputs import FewtuneError
from orchestrator.tracking.events import RunEvent, by_run, common_tags, event_of
from orchestrator.tracking.mlflow_client import artifacts, connect
from orchestrator.tracking.mlflow_runs import OutboxRecorder
from orchestrator.tracking.outbox import Outbox
from orchestrator.tracking.run_ids import RunIds
from orchestrator.tracking.saved_views import PREFIX, saved_views, view_id

log = logging.getLogger(__name__)

LONGEST_WAIT = 15.0
# MLflow needs tens of milliseconds of CPU per run, which the trials need too. So after each batch
# the sender sleeps for this many times the CPU time of the batch, until `drained` is called.
_RESTS = 19
_AT_ONCE = 512  # maximum number of events read together; those of one run make one batch
# The view of all searches stays when one of them is deleted.
_SHARED_VIEWS = {PREFIX + view_id("", "searches")}
SEARCH_ID = "fewtune.search_id"  # a tag of every run
# Error codes of events that MLflow will not accept on a retry either.
HOPELESS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST"}


def recorder(folder: Path, tracking_uri: str, search_id: str) -> OutboxRecorder:
    """A recorder for the search with this id and folder; it sends to `tracking_uri`."""
    outbox = Outbox(folder)
    sender = Sender(outbox, folder, tracking_uri, search_id)
    sender.start()
    return OutboxRecorder(outbox, sender)


def counts(tracking_uri: str, search: str) -> dict[str, dict[str, int]]:
    """The number of runs of a search, by kind and status."""
    client = connect(tracking_uri)
    n: defaultdict[str, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    for run in _runs(client, f"tags.`fewtune.search` = {_quoted(search)}"):
        n[run.data.tags["fewtune.kind"]][run.info.status] += 1
    return {kind: dict(statuses) for kind, statuses in n.items()}


def ensure_saved_views(tracking_uri: str, experiment: str, search: str) -> bool:
    """Add tables and charts of the search to the experiment's page; False if that fails."""
    try:
        client = connect(tracking_uri)
        id = client.get_experiment_by_name(experiment).experiment_id
        filter = f"tags.`fewtune.search` = {_quoted(search)} and tags.`fewtune.kind` = 'trial'"
        trials = client.search_runs([id], filter, max_results=1)
        _set_views(client, id, search, list(trials[0].data.params))
    except Exception as error:  # the format is private to MLflow, and the views are optional
        log.warning("no_saved_views search=%s error=%s", search, error)
        return False
    return True


def delete_runs(tracking_uri: str, search_id: str, search: str) -> None:
    """Delete all runs of the search with this id, as well as its saved views.

    MLflow keeps deleted runs, marked as deleted, until `mlflow gc`. Raises FewtuneError if MLflow
    cannot be reached.
    """
    try:
        client = connect(tracking_uri)
        found = list(_runs(client, f"tags.`{SEARCH_ID}` = {_quoted(search_id)}"))
        for run in found:
            client.delete_run(run.info.run_id)
        for experiment in client.search_experiments():
            for tag in saved_views(search, [], at=0):
                if tag in experiment.tags and tag not in _SHARED_VIEWS:
                    client.delete_experiment_tag(experiment.experiment_id, tag)
    except Exception as error:
        where = _public(tracking_uri)
        raise FewtuneError(
            f"The runs of {search} in MLflow at {where} cannot be deleted: {_public(str(error))}. "
            "Nothing else was deleted. Start MLflow, then delete the search again."
        ) from error


class Sender(threading.Thread):
    """A thread that sends the events of an outbox to MLflow and retries without limit.

    Sending an event again changes nothing: its run is found by `RunIds` or by the tags
    `fewtune.key` and `fewtune.search_id`, metric points have fixed times, and parameters and tags
    get the same values. A different search of the same name on the same server has separate runs.
    """

    def __init__(self, outbox: Outbox, folder: Path, tracking_uri: str, search_id: str) -> None:
        super().__init__(name="mlflow-sender", daemon=True)
        self.rejected = 0
        self._outbox = outbox
        self._uri = tracking_uri
        self._search_id = search_id
        self._run_ids = RunIds(folder / "mlflow_runs.jsonl", _public(tracking_uri))
        self._client: Any = None
        self._experiments: dict[str, str] = {}
        self._empty = False  # MLflow had no runs of this search, and no request has failed since
        self._views = False

    def run(self) -> None:
        failures, n = 0, 1
        while not self._outbox.closed:
            pending = self._outbox.next(timeout=60, at_most=n)
            if pending is None:
                continue
            try:
                if self._send(self._events(pending.events)):
                    self._outbox.sent(pending)
                failures, n = 0, min(2 * n, _AT_ONCE)
            # MLflow may be unreachable, restarting, full or forbidden; all of these can end.
            except Exception as error:
                failures, n = failures + 1, 1
                self._empty = False
                wait = min(LONGEST_WAIT, 0.25 * 2 ** min(failures, 8)) * random.uniform(0.5, 1)  # noqa: S311
                level = logging.WARNING if failures in (1, 5) else logging.DEBUG
                log.log(level, "mlflow_away retry_in=%.1f error=%s", wait, _public(str(error)))
                self._outbox.wait_closed(wait)

    @property
    def _own(self) -> str:
        """The filter for the runs of this search."""
        return f"tags.`{SEARCH_ID}` = {_quoted(self._search_id)}"

    def close(self) -> None:
        """Stop after the current batch; the next process sends the events that are left."""
        self._outbox.close()
        self.join(timeout=5)

    def _events(self, lines: list[dict[str, Any]]) -> list[RunEvent]:
        """The events in the lines; lines that are not events are set aside."""
        events = []
        for line in lines:
            try:
                events.append(event_of(line))
            except ValueError as error:
                self._outbox.set_aside(json.dumps(line).encode() + b"\n", str(error))
        return events

    def _send(self, events: list[RunEvent]) -> bool:
        """Write the events to MLflow; False if the outbox was rewound or closed instead."""
        if self._client is None:
            client = connect(self._uri)
            if self._run_ids and not _alive(client, next(iter(self._run_ids.runs.values()))):
                log.warning("record_anew uri=%s reason=its runs are gone", _public(self._uri))
                self._run_ids.clear()
            if not self._run_ids:
                self._empty = next(_runs(client, self._own), None) is None
            self._client = client
            if self._empty and self._outbox.rewind():
                return False
        for batch in by_run(events):
            if self._outbox.closed:
                return False
            started = time.thread_time()
            self._try(batch)
            self._outbox.count_sent(len(batch))
            self._outbox.pause(_RESTS * (time.thread_time() - started))
        return True

    def _try(self, batch: list[RunEvent]) -> None:
        """Write the events of one run to MLflow; events that it does not accept are rejected."""
        try:
            self._apply(batch)
        except Exception as error:
            if _code(error) not in HOPELESS:
                raise
            if len(batch) == 1:
                self._reject(batch[0].id, error)
            else:
                for event in batch:
                    self._try([event])
        if not self._views and batch[0].kind == "trial" and batch[0].params:
            self._views = True
            self._show(batch[0])

    def _apply(self, batch: list[RunEvent]) -> None:
        run_id, made = self._run(batch)
        self._log(run_id, batch, tags={} if made else _tags(batch))
        status, at = next(((e.status, e.time) for e in reversed(batch) if e.status), (None, 0.0))
        if status == "RUNNING":
            if not made:
                self._client.update_run(run_id, status="RUNNING")
        elif status:
            self._client.set_terminated(run_id, status, end_time=_ms(at))
        for path in (path for event in batch for path in event.artifacts):
            self._upload(run_id, Path(path))

    def _upload(self, run_id: str, path: Path) -> None:
        upload = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
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
            Metric(name, value, _ms(event.time), event.step)
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
            self._client.log_batch(run_id, metrics=metrics, params=params, tags=labels)
        except Exception as error:
            if not params or _code(error) not in HOPELESS:
                raise
            # The search was resumed with a different configuration. The first value stays.
            there = self._client.get_run(run_id).data.params
            changed = [p.key for p in params if there.get(p.key, p.value) != p.value]
            log.warning("params_keep_first_value key=%s params=%s", batch[0].key, changed)
            params = [param for param in params if param.key not in there]
            self._client.log_batch(run_id, metrics=metrics, params=params, tags=labels)

    def _run(self, batch: list[RunEvent]) -> tuple[str, bool]:
        """Id of the events' run, and whether it was created by this call."""
        event = batch[0]
        if known := self._known(event.key, event):
            return known, False
        tags = {**common_tags(event), SEARCH_ID: self._search_id, **_tags(batch)}
        if event.parent and (parent := self._known(event.parent, event)):
            tags["mlflow.parentRunId"] = parent
        start = event.time if event.start is None else event.start
        made = self._client.create_run(
            self._experiment(event.experiment),
            start_time=_ms(start),
            tags=tags,
            run_name=event.name,
        )
        self._run_ids.add(event.key, made.info.run_id)
        return made.info.run_id, True

    def _known(self, key: str, event: RunEvent) -> str | None:
        if key in self._run_ids.runs or self._empty:
            return self._run_ids.runs.get(key)
        filter = f"tags.`fewtune.key` = {_quoted(key)} and {self._own}"
        runs = self._client.search_runs(
            [self._experiment(event.experiment)], filter, order_by=["attributes.start_time ASC"]
        )
        for duplicate in runs[1:]:  # created by requests whose response was lost
            self._client.delete_run(duplicate.info.run_id)
        if not runs:
            return None
        self._run_ids.add(key, runs[0].info.run_id)
        return str(runs[0].info.run_id)

    def _experiment(self, name: str) -> str:
        """Id of the experiment; creates it if it does not exist."""
        if name not in self._experiments:
            existing = self._client.get_experiment_by_name(name)
            if existing is None:
                id = self._client.create_experiment(name, artifact_location=artifacts(self._uri))
            else:
                id = existing.experiment_id
                if existing.lifecycle_stage == "deleted":
                    self._client.restore_experiment(id)
            self._experiments[name] = id
        return self._experiments[name]

    def _show(self, event: RunEvent) -> None:
        try:
            id = self._experiment(event.experiment)
            _set_views(self._client, id, event.search, list(event.params))
        except Exception as error:  # the format is private to MLflow, and the views are optional
            log.warning("no_saved_views search=%s error=%s", event.search, error)


def _tags(batch: list[RunEvent]) -> dict[str, str]:
    return {name: value for event in batch for name, value in event.tags.items()}


def _set_views(client: Any, experiment_id: str, search: str, params: list[str]) -> None:
    for tag, value in saved_views(search, params, at=_ms(time.time())).items():
        client.set_experiment_tag(experiment_id, tag, value)


def _runs(client: Any, filter: str) -> Iterator[Any]:
    """All runs of all experiments that match the filter, page by page."""
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    token = None
    while True:
        page = client.search_runs(ids, filter, max_results=5000, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _alive(client: Any, run_id: str) -> bool:
    """Whether the run exists and is not deleted."""
    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == "active")
    except Exception as error:
        if _code(error) in HOPELESS:
            return False
        raise


def _code(error: Exception) -> str:
    return str(getattr(error, "error_code", ""))


def _public(tracking_uri: str) -> str:
    """The URI without a user name and password."""
    return re.sub(r"//[^/@]*@", "//", tracking_uri)


def _quoted(text: str) -> str:
    quote = '"' if "'" in text else "'"
    return quote + text.replace(quote, "") + quote


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
