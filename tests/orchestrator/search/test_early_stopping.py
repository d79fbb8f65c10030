"""The rule of `search.stop: auto`."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from fewshot.errors.inputs import InputError
from orchestrator.config.loading import data_of, parse
from orchestrator.config.plan import plan_of
from orchestrator.executors.inline import InlineExecutor
from orchestrator.record.studies.study import StudiedTrial, open_storage
from orchestrator.results.leaderboard import summarise
from orchestrator.sampling.ranked_trials import RankedTrials
from orchestrator.sampling.sampler import Sampler
from orchestrator.search.loop import run_search
from tests.orchestrator import toys
from tests.orchestrator.sampling.test_sampler import FIVE, RUNGS, drawn, studied
from tests.orchestrator.tiny import config
from tests.orchestrator.toys import SIZES, Crash, Crashing, Told, Toy


def quadratic(n: int, noise: float, width: float = 1.0, near: int = 0) -> list[StudiedTrial]:
    """Trials of a quadratic function of `width`; the last `near` are near its optimum."""
    rng, trials = np.random.default_rng(0), []
    for number in range(n):
        params = drawn(rng, FIVE)
        if number >= n - near:
            params = {k: r.at(0.4 + 0.02 * rng.normal()) for k, r in FIVE.box().items()}
        away = [r.share(params[k]) - 0.4 for k, r in FIVE.box().items()]
        value = -width * float(np.square(away).sum()) + noise * rng.normal()
        trials.append(studied(number, params, "complete", value, value, value))
    return trials


def expected(trials: list[StudiedTrial], n: int = 10) -> tuple[float, float]:
    found = Sampler(FIVE, 0).expected_gain(RankedTrials(FIVE, RUNGS, trials), n)
    assert found is not None
    return found


def test_less_can_be_gained_near_the_optimum_and_more_by_more_trials() -> None:
    gain, error = expected(quadratic(14, 0.01))
    assert gain > error > 0
    assert expected(quadratic(14, 0.01), 40)[0] >= gain
    assert expected(quadratic(40, 0.01, near=26))[0] < gain / 2


def test_gains_are_in_the_unit_of_the_score() -> None:
    one, ten = expected(quadratic(20, 0.1, 0.3)), expected(quadratic(20, 0.01, 0.03))
    assert one == pytest.approx([10 * each for each in ten], rel=0.2)


def test_no_gain_is_expected_without_a_model() -> None:
    sampler = Sampler(FIVE, 0)
    assert sampler.expected_gain(RankedTrials(FIVE, RUNGS, quadratic(5, 0.1)), 3) is None
    running = [studied(i, t.params, "running") for i, t in enumerate(quadratic(20, 0.1))]
    assert sampler.expected_gain(RankedTrials(FIVE, RUNGS, running), 3) is None


def run(path: Path, plan, executor=None):
    with open_storage(str(path)) as storage:
        records = toys.records(storage, plan)
        made = executor or InlineExecutor(lambda: Toy(2))
        run_search(plan, records, made, Told(), task_sizes=SIZES)
        return records


def gains(monkeypatch, *found: tuple[float, float]) -> list[int]:
    """The answers of the sampler in turn; the last one stays. Returns the numbers it was asked."""
    asked: list[int] = []

    def answer(sampler, trials, n):
        asked.append(n)
        return found[min(len(asked), len(found)) - 1]

    monkeypatch.setattr(Sampler, "expected_gain", answer)
    toys.quick_sampler(monkeypatch)
    return asked


def test_a_search_stops_after_its_last_two_trials_and_says_why(monkeypatch, tmp_path) -> None:
    asked = gains(monkeypatch, (0.03, 0.01), (0.02, 0.01), (0.004, 0.01))
    plan = toys.plan(trials=60, may_stop_early=True, eta=1.2)
    records = run(tmp_path / "toy.journal", plan)
    n = 60 - asked[-1] + 2
    assert len(asked) == 3
    assert asked[0] <= 30, "half of the trials were started before it was asked"
    assert len(records.search) == n < 40
    note = {"trials": n, "planned": 60, "further": asked[-1], "gain": 0.004, "error": 0.01}
    assert records.search.notes["stopped_early"] == note
    assert len(records.final.trials()) == 8
    assert len(records.test.trials()) == 4
    said = summarise("toy", records)
    assert f"ended after {n} of 60 trials" in str(said)
    assert "0.0040, is below the standard error of the best score, 0.0100" in said.stopped_early
    assert said.to_dict()["stopped_early"] == said.stopped_early


@pytest.mark.parametrize("k", [10, 25, 40, 45, 50])
def test_the_decision_survives_a_kill(monkeypatch, tmp_path, k: int) -> None:
    gains(monkeypatch, (0.004, 0.01))
    plan = toys.plan(trials=60, may_stop_early=True)
    path = tmp_path / "toy.journal"
    with suppress(Crash):
        run(path, plan, Crashing(lambda: Toy(2), k))
    monkeypatch.setattr(Sampler, "expected_gain", lambda *_: (0.004, 0.01))
    records = run(path, plan)
    assert len(records.search) == records.search.notes["stopped_early"]["trials"] < 40


@pytest.mark.parametrize("trials", [16, 18])
def test_short_searches_and_others_do_not_stop(monkeypatch, tmp_path, trials: int) -> None:
    asked = gains(monkeypatch, (0.0, 1.0))
    records = run(tmp_path / "a.journal", toys.plan(trials=trials, may_stop_early=True))
    assert len(records.search) == trials
    assert len(run(tmp_path / "b.journal", toys.plan(trials=30)).search) == 30
    assert asked == []
    assert summarise("toy", records).stopped_early == ""


def test_the_key_needs_our_own_sampler() -> None:
    data = data_of(config())
    made = parse(data | {"search": data["search"] | {"stop": "auto"}})
    assert plan_of(made).may_stop_early
    assert not plan_of(config()).may_stop_early
    with pytest.raises(InputError, match=r"search\.stop: needs `search.sampler: fewtune`"):
        parse(data | {"search": data["search"] | {"stop": "auto", "sampler": "tpe"}})
    with pytest.raises(InputError, match=r"search\.stop: must be 'auto'"):
        parse(data | {"search": data["search"] | {"stop": "never"}})


def test_the_model_itself_can_stop_a_search(tmp_path) -> None:
    plan = toys.plan(trials=40, may_stop_early=True)
    flat = InlineExecutor(lambda: Toy(2, lambda spec, step: _flat(spec, step)))
    records = run(tmp_path / "toy.journal", plan, flat)
    assert 22 <= len(records.search) < 40


def _flat(spec, step: int) -> float:
    """Nothing helps: all trials have the same score, with noise."""
    return 0.5 + float(np.random.default_rng([spec.seed, step]).normal(0, 0.02))
