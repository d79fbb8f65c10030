"""Counts the losses of workers, and decides which trials have caused them."""

from collections import Counter
from collections.abc import Collection

from orchestrator.search.failures import LOST, SearchFailed

# A trial has failed if its workers were lost this often between two of its reports.
MAX_LOSSES = 3
# The search ends if this many trials in a row have failed in that way, and no trial has reported.
MAX_FAILED = 3


class WorkerLosses:
    """The losses of each trial since its last new report.

    All trials of a lost worker share the loss, but perhaps only one of them has caused it. A trial
    that may fail with its next loss is a suspect. A worker has at most one suspect at a time, so a
    trial fails only if it was the only suspect each time.
    """

    def __init__(self) -> None:
        self._losses: Counter[str] = Counter()
        self._suspects: dict[int, str] = {}  # by worker
        self._failed = 0  # trials in a row, without a new report of any trial

    def reported(self, key: str) -> None:
        """The trial has made a report that it had not made before its worker was lost."""
        self._losses.pop(key, None)
        self._failed = 0

    def may_start(self, key: str, worker: int) -> bool:
        """Whether the trial may start on the worker; if it is a suspect, it counts as started."""
        if not self._is_suspect(key):
            return True
        if self._is_suspect(self._suspects.get(worker, "")):
            return False
        self._suspects[worker] = key
        return True

    def ended(self, key: str) -> None:
        self._losses.pop(key, None)

    def lost(self, worker: int, keys: Collection[str], cause: str) -> dict[str, str]:
        """Count a lost worker with its trials; returns the failed trials with their reasons.

        cause: why the worker was lost, in one line.

        Raises SearchFailed if no trial makes progress.
        """
        self._suspects.pop(worker, None)
        self._losses.update(keys)
        reason = f"{LOST} {MAX_LOSSES} times without a report in between"
        reason += f"; the last time: {cause}" if cause else ""
        failed = {key: reason for key in keys if self._losses[key] >= MAX_LOSSES}
        self._failed += len(failed)
        if self._failed >= MAX_FAILED:
            raise SearchFailed(
                f"No trial makes progress: the workers of {self._failed} trials in a row were lost "
                f"{MAX_LOSSES} times each{f', the last time: {cause}' if cause else ''}. Find out "
                "why, then continue with `--resume`; nothing that was reported is lost."
            )
        return failed

    def handed_back(self, worker: int) -> None:
        """The worker had to stop, for a reason outside of its trials."""
        self._suspects.pop(worker, None)

    def _is_suspect(self, key: str) -> bool:
        return self._losses[key] >= MAX_LOSSES - 1
