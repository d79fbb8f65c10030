"""The interface through which a search tells what happens, while it runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal, Protocol

from trials.contract import Outcome, RungReport, TrialResult, TrialSpec

SearchState = Literal["complete", "stopped", "failed"]
NO_TAGS: Mapping[str, str] = MappingProxyType({})


class Recorder(Protocol):
    """Records the events of a search for display in MLflow.

    Laws:
    - every call is idempotent, also across restarts of the process;
    - a call returns at once, and does not fail when MLflow cannot be reached;
    - `search_started` is the first call in every process of a search.
    """

    def search_started(
        self,
        *,
        name: str,
        experiment: str,
        params: Mapping[str, object],
        tags: Mapping[str, str],
        time: float,
    ) -> None: ...

    def trial_started(self, spec: TrialSpec, *, time: float, origin: str = "") -> None:
        """origin: where the parameters come from, if not from the search itself."""

    def reported(self, report: RungReport) -> None: ...

    def trial_interrupted(self, spec: TrialSpec, *, time: float) -> None:
        """The search stopped while the trial was running; a later process may continue it."""

    def trial_ended(self, result: TrialResult, *, state: Outcome, note: str = "") -> None: ...

    def worker_load(self, worker: int, load: Mapping[str, float], *, time: float) -> None:
        """load: what a worker used of its machine, by metric."""

    def search_ended(
        self,
        *,
        state: SearchState,
        metrics: Mapping[str, float],
        artifacts: Sequence[Path],
        time: float,
        tables: Sequence[Path] = (),
        tags: Mapping[str, str] = NO_TAGS,
        answer: str = "",
        best: str = "",
    ) -> None:
        """tables: further artifacts, JSON files that MLflow's page shows as tables.

        answer: the description of the search, as Markdown. best: the key of its best trial, whose
        run is marked by its name, a tag and a description.
        """

    def backlog(self) -> int:
        """Number of events that have not been sent yet."""

    def drain(self, timeout: float) -> bool:
        """Wait until all events are sent; returns False after `timeout` seconds."""

    def close(self) -> None:
        """Stop sending; the next process of the search sends the events that are left."""
