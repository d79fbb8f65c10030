"""Whole searches with samplers of Optuna."""

import pytest

from orchestrator.executors.inline import InlineExecutor
from orchestrator.record.studies.study import open_storage
from orchestrator.search.loop import run_search
from tests.orchestrator import toys
from tests.orchestrator.toys import SIZES, Crash, Crashing, Told, Toy


@pytest.mark.parametrize("sampler", ["gp", "tpe", "cmaes", "random"])
def test_a_search_ends_with_each_sampler_and_can_be_taken_up(tmp_path, sampler: str) -> None:
    plan = toys.plan(sampler=sampler, trials=14)
    path = str(tmp_path / "toy.journal")
    for k in (6, 12, 10**6):
        with open_storage(path) as storage:
            records = toys.records(storage, plan)
            executor = Crashing(lambda: Toy(2), k) if k < 100 else InlineExecutor(lambda: Toy(2))
            try:
                run_search(plan, records, executor, Told(), task_sizes=SIZES)
            except Crash:
                assert k < 100
    trials = records.search.trials()
    assert len(trials) == 14
    assert {t.state for t in trials} <= {"complete", "pruned"}
    box = plan.space.box()
    assert all(box[k].low <= v <= box[k].high for t in trials for k, v in t.params.items())
    assert len({tuple(t.params.values()) for t in trials}) == 14
