"""Workers that are lost: which trials are restarted, which fail, and when the search ends."""

from collections.abc import Callable, Mapping

import pytest
from optuna.storages import InMemoryStorage

from orchestrator.executors.inline import InlineExecutor
from orchestrator.record.search_records import SearchRecords
from orchestrator.search.failures import SearchFailed
from orchestrator.search.loop import run_search
from orchestrator.search.losses import MAX_LOSSES
from tests.orchestrator import toys
from tests.orchestrator.toys import SIZES, Losing, Told, Toy
from trials.contract import Outcome, Turn


class Deadly(InlineExecutor):
    """Workers die while they hold a trial of `killers` (keys)."""

    def __init__(self, make: Callable[[], Toy], killers: set[str], *, workers: int = 1) -> None:
        super().__init__(make, workers=workers)
        self._make, self._killers, self.deaths = make, killers, 0

    def turn(self) -> Turn | None:
        if not self._orders:
            return None
        worker, release, _ = self._orders[0]
        if not self._roster._held[worker] & self._killers:
            return super().turn()
        self._orders.popleft()
        self.deaths += 1
        self._workers[worker] = type(self._workers[worker])(worker, self._make())
        return self._roster.lost(worker, release, "killed by SIGSEGV")


def searched(
    executor: InlineExecutor, told: Told | None = None, **changes: object
) -> SearchRecords:
    plan = toys.plan()
    records = toys.records(InMemoryStorage(), plan)
    run_search(plan, records, executor, told or Told(), task_sizes=SIZES)
    return records


@pytest.mark.parametrize(("workers", "lanes"), [(1, 1), (1, 4), (3, 4), (2, 2)])
def test_a_trial_that_kills_its_workers_fails_and_its_neighbours_do_not(
    workers: int, lanes: int
) -> None:
    told = Told()
    executor = Deadly(lambda: Toy(lanes), {"search-0005"}, workers=workers)
    records = searched(executor, told)
    failed = [t for t in records.search.trials() if t.state == "failed"]
    assert [t.number for t in failed] == [5]
    assert executor.deaths == MAX_LOSSES
    reason = "its worker was lost 3 times without a report in between; the last time: "
    reason += "killed by SIGSEGV"
    assert failed[0].notes["reason"] == reason
    assert told.ends()["search-0005"] == ("failed", reason)
    assert len(records.search.trials()) == 12
    assert {t.state for t in records.final.trials()} == {"complete"}


def test_two_such_trials_fail_both() -> None:
    executor = Deadly(lambda: Toy(6), {"search-0005", "search-0007"}, workers=2)
    records = searched(executor)
    failed = [t.number for t in records.search.trials() if t.state == "failed"]
    assert failed == [5, 7]


def test_losses_between_reports_never_end_a_search() -> None:
    """The only worker dies again and again, for the whole search."""
    executor = Losing(lambda: Toy(1), at=range(1, 400, 5))
    records = searched(executor)
    assert {t.state for t in records.search.trials()} <= {"complete", "pruned"}
    attempts = sum(t.notes.get("attempt", 0) for t in records.search.trials())
    assert attempts > 2 * MAX_LOSSES


def test_a_search_without_any_progress_ends_and_names_the_remedy() -> None:
    plan = toys.plan()
    records = toys.records(InMemoryStorage(), plan)
    every = {f"search-{n:04d}" for n in range(12)}
    with pytest.raises(SearchFailed, match="No trial makes progress") as caught:
        run_search(plan, records, Deadly(lambda: Toy(4), every), Told(), task_sizes=SIZES)
    assert "--resume" in str(caught.value)
    assert "killed by SIGSEGV" in str(caught.value)
    states = [t.state for t in records.search.trials()]
    assert states.count("failed") == 2
    assert "running" in states, "they go on when the search is resumed"


class Leaving(Losing):
    """The worker hands its trials back before every turn in `at`."""

    def _without(self, worker: int, release: Mapping[str, Outcome]) -> Turn:
        return self._roster.handed_back(Turn(worker=worker), release)


def test_trials_that_are_handed_back_are_not_counted_as_lost() -> None:
    """The only worker hands its trial back four times before the first report."""
    records = searched(Leaving(lambda: Toy(1), at=range(1, 5)))
    assert records.search.trials()[0].notes["attempt"] == 4
    assert {t.state for t in records.search.trials()} <= {"complete", "pruned"}
