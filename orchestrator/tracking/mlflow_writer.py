"""Shows the record in MLflow, which is never waited for: it is a view, the study is the truth."""

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
from orchestrator.tracking.outbox import Outbox
from orchestrator.tracking.recorder import OutboxRecorder
from orchestrator.tracking.run_ids import RunIds
from orchestrator.tracking.saved_views import PREFIX, saved_views, view_id

log = logging.getLogger(__name__)

LONGEST_WAIT = 15.0
# MLflow wants tens of milliseconds of CPU for each run, which the trials want too. So after each
# batch it rests for so many times the CPU time that this took, until somebody waits for the record.
_RESTS = 19
_AT_ONCE = 512  # events at the most, of which those of one run make one batch
# The view of all searches stays when one of them is deleted.
_SHARED_VIEWS = {PREFIX + view_id("", "searches")}
SEARCH_ID = "fewtune.search_id"  # a tag of every run
# What MLflow says of an event that it will not accept at the next try either.
HOPELESS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST"}


def recorder(folder: Path, tracking_uri: str, search_id: str) -> OutboxRecorder:
    """A recorder for the search with this id whose folder this is, shown at `tracking_uri`."""
    outbox = Outbox(folder)
    sender = Sender(outbox, folder, tracking_uri, search_id)
    sender.start()
    return OutboxRecorder(outbox, sender)


def counts(tracking_uri: str, search: str) -> dict[str, dict[str, int]]:
    """How many runs of a search there are, by kind and status."""
    client = connect(tracking_uri)
    found: defaultdict[str, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    for run in _runs(client, f"tags.`fewtune.search` = {_quoted(search)}"):
        found[run.data.tags["fewtune.kind"]][run.info.status] += 1
    return {kind: dict(statuses) for kind, statuses in found.items()}


def ensure_saved_views(tracking_uri: str, experiment: str, search: str) -> bool:
    """Give the experiment's page tables and charts of the search; False if it can't be done now."""
    try:
        client = connect(tracking_uri)
        found = client.get_experiment_by_name(experiment)
        filter = f"tags.`fewtune.search` = {_quoted(search)} and tags.`fewtune.kind` = 'trial'"
        trials = client.search_runs([found.experiment_id], filter, max_results=1)
        _set_views(client, found.experiment_id, search, list(trials[0].data.params))
    except Exception as error:  # the format is MLflow's own affair, and nothing hangs on it
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
    """Empties an outbox into MLflow, for as long as it takes.

    Sending an event again changes nothing: its run is found by the ledger or by the tags
    `fewtune.key` and `fewtune.search_id`, points have fixed times, and parameters and tags are what
    they were. Another search of the same name on the same server has runs of its own.
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
        self._empty = False  # MLflow had no run of this search, and no request has failed since
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
            except Exception as error:  # away, restarting, full, forbidden for now: all may pass
                failures, n = failures + 1, 1
                self._empty = False
                wait = min(LONGEST_WAIT, 0.25 * 2 ** min(failures, 8)) * random.uniform(0.5, 1)  # noqa: S311
                level = logging.WARNING if failures in (1, 5) else logging.DEBUG
                said = _public(str(error))
                log.log(level, "mlflow_away retry_in=%.1f error=%s", wait, said)
                self._outbox.wait_closed(wait)

    @property
    def _own(self) -> str:
        """Finds the runs of this search."""
        return f"tags.`{SEARCH_ID}` = {_quoted(self._search_id)}"

    def close(self) -> None:
        """Stop after the run that is being sent; what is left waits for the next process."""
        self._outbox.close()
        self.join(timeout=5)

    def _events(self, lines: list[dict[str, Any]]) -> list[RunEvent]:
        """Those that are events; what else there is, is set aside."""
        events = []
        for line in lines:
            try:
                events.append(event_of(line))
            except ValueError as error:
                self._outbox.set_aside(json.dumps(line).encode() + b"\n", str(error))
        return events

    def _send(self, events: list[RunEvent]) -> bool:
        """Make the events true; False if the outbox was rewound or closed instead."""
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
            begun = time.thread_time()
            self._try(batch)
            self._outbox.told(len(batch))
            self._outbox.rest(_RESTS * (time.thread_time() - begun))
        return True

    def _try(self, batch: list[RunEvent]) -> None:
        """Make events of one run true, or as many of them as MLflow accepts."""
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
        # The first value of a parameter is the one that stays.
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
            # A search went on with another configuration. The first value stays.
            there = self._client.get_run(run_id).data.params
            changed = [p.key for p in params if there.get(p.key, p.value) != p.value]
            log.warning("params_keep_first_value key=%s params=%s", batch[0].key, changed)
            params = [param for param in params if param.key not in there]
            self._client.log_batch(run_id, metrics=metrics, params=params, tags=labels)

    def _run(self, batch: list[RunEvent]) -> tuple[str, bool]:
        """Id of the events' run, and whether it was made just now."""
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
        found = self._client.search_runs(
            [self._experiment(event.experiment)], filter, order_by=["attributes.start_time ASC"]
        )
        for ghost in found[1:]:  # of requests whose answer was lost
            self._client.delete_run(ghost.info.run_id)
        if not found:
            return None
        self._run_ids.add(key, found[0].info.run_id)
        return str(found[0].info.run_id)

    def _experiment(self, name: str) -> str:
        """Id of the experiment, which is made if need be."""
        if name not in self._experiments:
            found = self._client.get_experiment_by_name(name)
            if found is None:
                id = self._client.create_experiment(name, artifact_location=artifacts(self._uri))
            else:
                id = found.experiment_id
                if found.lifecycle_stage == "deleted":
                    self._client.restore_experiment(id)
            self._experiments[name] = id
        return self._experiments[name]

    def _show(self, event: RunEvent) -> None:
        try:
            id = self._experiment(event.experiment)
            _set_views(self._client, id, event.search, list(event.params))
        except Exception as error:  # the format is MLflow's own affair, and nothing hangs on it
            log.warning("no_saved_views search=%s error=%s", event.search, error)


def _tags(batch: list[RunEvent]) -> dict[str, str]:
    return {name: value for event in batch for name, value in event.tags.items()}


def _set_views(client: Any, experiment_id: str, search: str, params: list[str]) -> None:
    for tag, value in saved_views(search, params, at=_ms(time.time())).items():
        client.set_experiment_tag(experiment_id, tag, value)


def _runs(client: Any, filter: str) -> Iterator[Any]:
    """All runs of all experiments that fit, page by page."""
    ids = [found.experiment_id for found in client.search_experiments()]
    token = None
    while True:
        page = client.search_runs(ids, filter, max_results=5000, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _alive(client: Any, run_id: str) -> bool:
    """Whether the run is there and was not deleted."""
    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == "active")
    except Exception as error:
        if _code(error) in HOPELESS:
            return False
        raise


def _code(error: Exception) -> str:
    return str(getattr(error, "error_code", ""))


def _public(tracking_uri: str) -> str:
    """Without the name and password it may hold."""
    return re.sub(r"//[^/@]*@", "//", tracking_uri)


def _quoted(text: str) -> str:
    quote = '"' if "'" in text else "'"
    return quote + text.replace(quote, "") + quote


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
