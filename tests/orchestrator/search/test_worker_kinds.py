"""A search whose workers are of several kinds: each trial gets a worker that may train it."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import optuna
import pytest

from orchestrator.executors.inline import InlineExecutor
from orchestrator.record.search_records import SearchRecords
from orchestrator.search.loop import Stopped, run_search
from orchestrator.space.choices import Choice
from orchestrator.space.search_space import Range, SearchSpace
from orchestrator.space.simplex import Simplex
from tests.orchestrator import toys
from tests.orchestrator.toys import SIZES, TASKS, Told, Toy
from trials.contract import Outcome, TrialSpec, Turn

SMALL, LARGE, ANY = ("small",), ("large",), ("small", "large")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    toys.quick_sampler(monkeypatch)


def plan(**changes: Any) -> Any:
    simplex = Simplex(TASKS, (1 / 3,) * 3, half_width=3.5, zero_below=0.05)
    rate, size = {"lr/outer": Range(1e-4, 1e-1, log=True)}, {"size": Choice(ANY)}
    return toys.plan(space=SearchSpace(rate, {}, simplex, size), trials=24, **changes)


class Kinds(InlineExecutor):
    """Workers that train trials of some sizes only. got: what each worker was given.

    late: how often in a row nothing happens before the first worker has started.
    """

    def __init__(self, *sizes: Sequence[str], lanes: int = 2, late: int = 0) -> None:
        super().__init__(lambda: Toy(lanes), workers=len(sizes))
        self.got: list[tuple[int, TrialSpec]] = []
        self._sizes, self._late = sizes, late

    def idle(self) -> Mapping[int, int]:
        return {w: n for w, n in super().idle().items() if w or not self._late}

    def workers_for(self, spec: TrialSpec) -> Collection[int]:
        return [w for w, sizes in enumerate(self._sizes) if spec.choices["size"] in sizes]

    def send_orders(
        self, worker: int, release: Mapping[str, Outcome], admit: Sequence[TrialSpec]
    ) -> None:
        self.got += [(worker, spec) for spec in admit]
        super().send_orders(worker, release, admit)

    def turn(self) -> Turn | None:
        turn = super().turn()
        self._late -= turn is None
        return turn


def run(
    executor: Kinds, told: Told | None = None, storage: Any = None, **more: Any
) -> SearchRecords:
    of = plan()
    records = toys.records(storage or optuna.storages.InMemoryStorage(), of)
    run_search(of, records, executor, told or Told(), task_sizes=SIZES, **more)
    return records


def assert_all_have_ended(records: SearchRecords) -> None:
    assert len(records.search.trials()) == 24
    for record in (records.search, records.final, records.test):
        assert len(record) > 0
        assert {t.state for t in record.trials()} <= {"complete", "pruned"}


@pytest.mark.parametrize("sizes", [(LARGE, SMALL), (LARGE, ANY), (SMALL, LARGE, LARGE), (ANY, ANY)])
@pytest.mark.parametrize("lanes", [1, 4])
def test_each_trial_is_trained_once_by_a_worker_that_may(
    sizes: tuple[Sequence[str], ...], lanes: int
) -> None:
    executor, told = Kinds(*sizes, lanes=lanes), Told()
    assert_all_have_ended(run(executor, told))
    assert all(spec.choices["size"] in sizes[worker] for worker, spec in executor.got)
    assert {spec.choices["size"] for _, spec in executor.got} == {"small", "large"}
    assert {worker for worker, _ in executor.got} == set(range(len(sizes)))
    keys = [spec.key for _, spec in executor.got]
    assert len(keys) == len(set(keys)) == len(told.starts)
    stages = {(spec.stage, spec.choices["size"]) for _, spec in executor.got}
    assert {stage for stage, _ in stages} == {"search", "final", "test"}


def test_few_trials_wait_for_a_busy_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sampler suggests large ones only; the two workers for small ones have nothing to do."""

    def suggest(*arguments: Any, **options: Any) -> Any:
        return [p | {"size": "large"} for p in toys.quick_suggest(*arguments, **options)]

    monkeypatch.setattr("orchestrator.sampling.sampler.Sampler.suggest", suggest)
    executor, waiting = Kinds(LARGE, SMALL, SMALL), []

    def observe(stage: str) -> None:
        running = [t for t in records.search.trials() if t.state == "running"]
        live = {spec.number for _, spec in executor.got if spec.stage == "search"}
        waiting.append(sum(t.number not in live for t in running))

    records = toys.records(optuna.storages.InMemoryStorage(), plan())
    run_search(plan(), records, executor, Told(), task_sizes=SIZES, observe=observe)
    assert_all_have_ended(records)
    assert 0 < max(waiting) <= executor.lanes


def test_trials_wait_for_a_worker_that_has_not_started() -> None:
    executor = Kinds(LARGE, SMALL, late=5)
    assert_all_have_ended(run(executor))
    assert executor.got[0][0] == 1
    assert {spec.choices["size"] for worker, spec in executor.got if worker == 0} == {"large"}


@pytest.mark.parametrize("turns", [1, 4, 9])
def test_what_waited_when_the_search_stopped_is_resumed(turns: int) -> None:
    storage, left = optuna.storages.InMemoryStorage(), iter(range(turns))
    with pytest.raises(Stopped):
        run(Kinds(LARGE, SMALL), storage=storage, should_stop=lambda: next(left, None) is None)
    executor = Kinds(LARGE, SMALL)
    assert_all_have_ended(run(executor, storage=storage))
    keys = [spec.key for _, spec in executor.got]
    assert len(keys) == len(set(keys))
