"""The sender, which writes the events of a search to MLflow in the background.

A search never waits for MLflow. MLflow is a view; the study is the source of truth.
"""

import json
import logging
import os
import random
import re
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from fewshot.errors.inputs import FewtuneError
from orchestrator.tracking.events import Kind, RunEvent, by_run, event_of
from orchestrator.tracking.mlflow_client import connect, tune
from orchestrator.tracking.mlflow_runs import OutboxRecorder
from orchestrator.tracking.run_ids import RunIds
from orchestrator.tracking.saved_views import PREFIX, saved_views, view_id
from orchestrator.tracking.sending.helpers import Helper, wait_for_earlier_helpers
from orchestrator.tracking.sending.outbox import Outbox
from orchestrator.tracking.sending.run_writer import (
    HOPELESS,
    SEARCH_ID,
    RunWriter,
    code,
    ms,
    quoted,
    runs_where,
)

log = logging.getLogger(__name__)

LONGEST_WAIT = 15.0
# MLflow needs tens of milliseconds of CPU per run, which the trials need too. So after each batch
# the sender sleeps for this many times the CPU time of the batch, until `drained` is called.
_RESTS = 19
_AT_ONCE = 512  # maximum number of events read together; those of one run make one batch
# A helper takes seconds to start, so it pays only if at least this many runs are left.
_RUNS_FOR_HELP = 200
# SQLite has one writer at a time, and a server has few processes.
_MOST_HELPERS = 3
_LEDGER = "mlflow_runs.jsonl"
_Batches = list[list[RunEvent]]  # all of one run, in order
# The view of all searches stays when one of them is deleted.
_SHARED_VIEWS = {PREFIX + view_id("", "searches")}


def recorder(folder: Path, tracking_uri: str, search_id: str) -> OutboxRecorder:
    """A recorder for the search with this id and folder; it sends to `tracking_uri`."""
    outbox = Outbox(folder)
    sender = Sender(outbox, folder, tracking_uri, search_id)
    sender.start()
    return OutboxRecorder(outbox, sender)


def resending_recorder(folder: Path, tracking_uri: str, search_id: str) -> OutboxRecorder:
    """As `recorder`, and it sends all events again. Runs that were deleted are created again."""
    outbox = Outbox(folder)
    outbox.rewind()
    (folder / _LEDGER).unlink(missing_ok=True)  # then the runs that exist are looked up
    sender = Sender(outbox, folder, tracking_uri, search_id)
    sender.start()
    return OutboxRecorder(outbox, sender)


def counts(tracking_uri: str, search: str) -> dict[str, dict[str, int]]:
    """The number of runs of a search, by kind and status."""
    client = connect(tracking_uri)
    n: defaultdict[str, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    for run in runs_where(client, f"tags.`fewtune.search` = {quoted(search)}"):
        n[run.data.tags["fewtune.kind"]][run.info.status] += 1
    return {kind: dict(statuses) for kind, statuses in n.items()}


def ensure_saved_views(tracking_uri: str, experiment: str, search: str) -> bool:
    """Add tables and charts of the search to the experiment's page; False if that fails."""
    try:
        client = connect(tracking_uri)
        id = client.get_experiment_by_name(experiment).experiment_id
        filter = f"tags.`fewtune.search` = {quoted(search)} and tags.`fewtune.kind` = 'trial'"
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
        found = list(runs_where(client, f"tags.`{SEARCH_ID}` = {quoted(search_id)}"))
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

    Sending an event again changes nothing (see `RunWriter`). A different search of the same name on
    the same server has separate runs.

    Most of the time it writes the runs itself. If many runs are left, and there are cores that the
    trials do not need, it has helpers: processes that write runs at the same time.
    """

    def __init__(self, outbox: Outbox, folder: Path, tracking_uri: str, search_id: str) -> None:
        super().__init__(name="mlflow-sender", daemon=True)
        self._outbox = outbox
        self._folder = folder
        self._uri = tracking_uri
        self._search_id = search_id
        self._run_ids = RunIds(folder / _LEDGER, _public(tracking_uri))
        self._writer: RunWriter | None = None
        self._helpers: list[Helper] = []
        self.seconds = 0.0  # in which this thread, or helpers, wrote runs
        self._rejected = 0  # by helpers that have ended
        self._views = False

    @property
    def rejected(self) -> int:
        """Number of events that MLflow will never accept."""
        here = self._writer.rejected if self._writer else 0
        return here + self._rejected + sum(helper.rejected for helper in self._helpers)

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
                if self._writer:
                    self._writer.known = False  # a run may exist whose id did not arrive
                self._dismiss_helpers()
                wait = min(LONGEST_WAIT, 0.25 * 2 ** min(failures, 8)) * random.uniform(0.5, 1)  # noqa: S311
                level = logging.WARNING if failures in (1, 5) else logging.DEBUG
                log.log(level, "mlflow_away retry_in=%.1f error=%s", wait, _public(str(error)))
                self._outbox.wait_closed(wait)
        self._dismiss_helpers()
        if self._writer:
            tune(self._uri)  # for the page of the runs that were just written

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
        if self._writer is None:
            self._writer, rewound = self._open()
            if rewound:
                return False
        for runs in _levels(by_run(events)):
            if not self._write(self._writer, runs):
                return False
            trial = next((run[0][0] for run in runs if run[0][0].kind == "trial"), None)
            if trial is not None and trial.params and not self._views:
                self._views = True
                self._show(self._writer, trial)
        return True

    def _open(self) -> tuple[RunWriter, bool]:
        """A writer that knows the runs of this search, and whether the outbox was rewound."""
        wait_for_earlier_helpers(self._folder)
        writer = RunWriter(self._uri, self._search_id, self._run_ids)
        if self._run_ids and not _alive(writer.client, next(iter(self._run_ids.runs.values()))):
            log.warning("record_anew uri=%s reason=its runs are gone", _public(self._uri))
            self._run_ids.clear()
        if self._run_ids:
            return writer, False
        self._run_ids.replace(writer.own_runs())
        writer.known = True
        return writer, not self._run_ids and self._outbox.rewind()

    def _write(self, writer: RunWriter, runs: list[_Batches]) -> bool:
        """Write the batches of runs of one kind; False if the outbox was closed meanwhile."""
        writers: list[RunWriter | Helper] = [*self._ready_helpers()]
        together = bool(writers)
        if self._outbox.awaited or not together:
            writers.append(writer)
        free: SimpleQueue[RunWriter | Helper] = SimpleQueue()
        for each in writers:
            free.put(each)

        def write(batches: _Batches) -> bool:
            if self._outbox.closed:
                return False
            one, started, began = free.get(), time.thread_time(), time.monotonic()
            try:
                if isinstance(one, Helper):
                    one.write(batches, self._run_ids, known=writer.known)
                else:
                    for batch in batches:
                        one.write(batch)
            finally:
                self.seconds += time.monotonic() - began
                free.put(one)
            self._outbox.count_sent(sum(map(len, batches)))
            if not together:
                self._outbox.pause(_RESTS * (time.thread_time() - started))
            return True

        if not together:
            return all(map(write, runs))
        with ThreadPoolExecutor(len(writers), "mlflow-writer") as pool:
            return all(pool.map(write, runs))

    def _ready_helpers(self) -> list[Helper]:
        """The helpers that can write now; starts them if there are not enough."""
        cores, n = os.cpu_count() or 1, 0
        if self._outbox.runs_left() >= _RUNS_FOR_HELP:
            # While trials run, only a core that they leave free; the average counts the helper too.
            spare = os.getloadavg()[0] - len(self._helpers) < cores - 1
            n = min(_MOST_HELPERS, cores - 1) if self._outbox.awaited else int(spare)
        while len(self._helpers) < n:
            self._helpers.append(Helper(self._folder, self._uri, self._search_id))
        return self._helpers[:n]

    def _dismiss_helpers(self) -> None:
        for helper in self._helpers:
            helper.close()
            self._rejected += helper.rejected
        self._helpers.clear()

    def _show(self, writer: RunWriter, event: RunEvent) -> None:
        try:
            id = writer.experiment(event.experiment)
            _set_views(writer.client, id, event.search, list(event.params))
        except Exception as error:  # the format is private to MLflow, and the views are optional
            log.warning("no_saved_views search=%s error=%s", event.search, error)


def _levels(batches: _Batches) -> list[list[_Batches]]:
    """The batches by run, and the runs by kind: those of one kind are not each other's parents."""
    kinds: dict[Kind, dict[str, list[list[RunEvent]]]] = {
        "search": {},
        "trial": {},
        "adaptation": {},
    }
    for batch in batches:
        kinds[batch[0].kind].setdefault(batch[0].key, []).append(batch)
    return [list(runs.values()) for runs in kinds.values() if runs]


def _set_views(client: Any, experiment_id: str, search: str, params: list[str]) -> None:
    for tag, value in saved_views(search, params, at=ms(time.time())).items():
        client.set_experiment_tag(experiment_id, tag, value)


def _alive(client: Any, run_id: str) -> bool:
    """Whether the run exists and is not deleted."""
    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == "active")
    except Exception as error:
        if code(error) in HOPELESS:
            return False
        raise


def _public(tracking_uri: str) -> str:
    """The URI without a user name and password."""
    return re.sub(r"//[^/@]*@", "//", tracking_uri)
