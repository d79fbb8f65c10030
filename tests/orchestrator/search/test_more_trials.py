"""A search that ended goes on with more trials."""

import pytest

from orchestrator.executors.inline import InlineExecutor
from orchestrator.record.studies.study import StudiedTrial, open_storage
from orchestrator.results.leaderboard import summarise
from orchestrator.sampling.sampler import Sampler
from orchestrator.search.finals.finalists import best_candidate
from orchestrator.search.loop import run_search
from tests.orchestrator import toys
from tests.orchestrator.search.test_loop import _quick
from tests.orchestrator.toys import SIZES, Crash, Crashing, Told, Toy

__all__ = ["_quick"]  # a fixture
FEWER, MORE = toys.plan(trials=14), toys.plan(trials=30)


def run(path, plan, told, executor=None):
    with open_storage(path) as storage:
        records = toys.records(storage, plan)
        made = executor or InlineExecutor(lambda: Toy(3))
        run_search(plan, records, made, told, task_sizes=SIZES)
        return records


@pytest.mark.parametrize("crash", [None, 1, 4, 7, 10, 13])
def test_all_trials_of_the_shorter_search_are_kept_and_nothing_runs_twice(tmp_path, crash) -> None:
    path, told = str(tmp_path / "toy.journal"), Told()
    before = run(path, FEWER, told)
    n_starts = len(told.starts)
    if crash is not None:
        with pytest.raises(Crash):
            run(path, MORE, told, Crashing(lambda: Toy(3), crash))
    after = run(path, MORE, told)
    for stage in ("search", "final", "test"):
        old, new = (getattr(records, stage).trials() for records in (before, after))
        assert new[: len(old)] == old
    assert len(after.search.trials()) == 30
    assert len(told.starts) == len(set(told.starts)), "no attempt was started twice"
    new_keys = {key for key, _ in told.starts[n_starts:]}
    assert not new_keys & {key for key, _ in told.starts[:n_starts]}
    assert told.ends().keys() == {key for key, _ in told.starts}


def key_of(trial: StudiedTrial) -> tuple[str, int]:
    return trial.notes["role"], trial.notes["candidate"]


def test_finalists_are_chosen_again_and_those_that_stay_are_not_retrained(tmp_path) -> None:
    path, told = str(tmp_path / "toy.journal"), Told()
    before = {key_of(t) for t in run(path, FEWER, told).final.trials()}
    records = run(path, MORE, told)
    finals = records.final.trials()
    chosen = {key_of(t) for t in finals} - before
    assert chosen, "the longer search found better trials"
    pairs = [(key_of(t), t.notes["seed_index"]) for t in finals]
    assert len(pairs) == len(set(pairs)) == MORE.seeds * len({c for c, _ in pairs})
    best = best_candidate(finals, "searched")
    tested = {t.notes["candidate"] for t in records.test.trials()}
    assert {best, best_candidate(finals, "uniform")} <= tested
    records.search._notes["state"] = "complete"
    summary = summarise("toy", records)
    assert summary.candidate is not None
    assert summary.candidate.number == best
    assert summary.difference is not None


def test_an_earlier_finalist_may_stay_the_best(tmp_path) -> None:
    path, told = str(tmp_path / "toy.journal"), Told()
    best = best_candidate(run(path, FEWER, told).final.trials(), "searched")

    def score(spec, step):  # all later trials look better and are worse when retrained
        late = spec.stage == "search" and spec.number >= FEWER.trials
        again = spec.stage != "search" and spec.key > "final-0005"
        return toys.skill(spec, step) + 0.5 * late - 0.5 * again

    records = run(path, MORE, told, InlineExecutor(lambda: Toy(3, score)))
    finals = records.final.trials()
    assert len({t.notes["candidate"] for t in finals}) > 3
    assert best_candidate(finals, "searched") == best
    assert best in {t.notes["candidate"] for t in records.test.trials()}


def test_the_last_two_trials_are_again_where_most_is_expected(tmp_path, monkeypatch) -> None:
    path, told = str(tmp_path / "toy.journal"), Told()
    expected = toys.plan().space.reference() | {"lr/outer": 0.05}
    monkeypatch.setattr(Sampler, "last", lambda *_: expected)
    run(path, FEWER, told)
    trials = run(path, MORE, told).search.trials()
    found = [number for number, trial in enumerate(trials) if trial.params == expected]
    assert found == [12, 13, 28, 29]
