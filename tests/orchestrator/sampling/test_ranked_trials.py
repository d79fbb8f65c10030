import math
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.record.studies.study import StudiedTrial
from orchestrator.sampling.optuna_samplers import mean_of_best
from orchestrator.sampling.ranked_trials import RankedTrials
from orchestrator.sampling.sampler import view
from tests.orchestrator import toys

SPACE, RUNGS = toys.plan().space, toys.plan().rungs
REFERENCE = SPACE.reference() | {"lr/outer": 0.01}


def studied(number: int, state: str, *scores: float) -> StudiedTrial:
    rng = np.random.default_rng(number)
    params = {name: r.at(rng.random()) for name, r in SPACE.box().items()}
    return StudiedTrial(number, state, params, dict(zip(RUNGS, scores, strict=False)), {})


def numbers(trials) -> list[int]:
    return [t.number for t in trials]


def test_the_gain_is_the_mean_of_those_that_reached_both_rungs() -> None:
    trials = [
        studied(0, "complete", 0.1, 0.2, 0.4),
        studied(1, "complete", 0.2, 0.5, 0.9),
        studied(2, "pruned", 0.9),
        studied(3, "running", 0.9, 0.95),
        studied(4, "failed", 0.3, 0.3, math.nan),
        studied(5, "running", 0.2, 0.3, 0.7),
    ]
    ranked_trials = RankedTrials(SPACE, RUNGS, trials)
    assert ranked_trials.gain(3) == pytest.approx((0.3 + 0.7 + 0.5) / 3)
    assert ranked_trials.gain(6) == pytest.approx((0.2 + 0.4 + 0.4) / 3)
    assert ranked_trials.gain(10) == 0
    assert RankedTrials(SPACE, RUNGS, trials[2:5]).gain(3) == 0


def test_trials_stand_by_merit_and_those_that_are_equal_by_number() -> None:
    trials = [
        StudiedTrial(0, "complete", REFERENCE, {10: 0.5}, {}),
        studied(1, "complete", 0, 0, 0.3),
        studied(2, "complete", 0, 0, 0.9),
        studied(3, "complete", 0, 0, 0.3),
        studied(4, "pruned", 0.1),
        studied(5, "pruned", 0.2),
        studied(6, "failed", -3.0, math.nan),
        studied(7, "running", -1.5),
    ]
    ranked_trials = RankedTrials(SPACE, RUNGS, trials)
    assert numbers(ranked_trials.complete(reference=False)) == [2, 1, 3]
    assert numbers(ranked_trials.complete(reference=True)) == [0]
    assert [numbers(group) for group in ranked_trials.pruned()] == [[5, 4]]
    assert numbers(ranked_trials.failed()) == [6]
    assert numbers(ranked_trials.running) == [7]
    assert ranked_trials.references == 1
    assert ranked_trials.worst() == -1.5
    assert RankedTrials(SPACE, RUNGS).worst() == 0


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["complete", "pruned", "failed", "running"]),
            st.lists(st.floats(-2, 1) | st.just(math.nan), min_size=3, max_size=3),
        ),
        max_size=12,
    ),
    st.randoms(),
)
def test_they_hang_on_the_trials_and_not_on_when_those_ended(ends, random) -> None:
    now = [
        studied(i, state, *(scores if state == "complete" else scores[:1]))
        for i, (state, scores) in enumerate(ends)
    ]
    at_once, trials = RankedTrials(SPACE, RUNGS, now), [studied(t.number, "running") for t in now]
    told = RankedTrials(SPACE, RUNGS, trials[:2])
    for i in random.sample(range(len(now)), len(now)):
        trials[i] = now[i]
        told.update(list(trials))
    for reference in (False, True):
        assert [*told.complete(reference=reference)] == [*at_once.complete(reference=reference)]
    assert [told.gain(rung) for rung in RUNGS] == [at_once.gain(rung) for rung in RUNGS]
    assert told.worst() == at_once.worst()
    assert numbers(told.running) == numbers(at_once.running)
    assert [(t.number, v) for t, v in view(told)] == [(t.number, v) for t, v in view(at_once)]


def test_an_update_looks_at_none_that_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    trials = [studied(i, "complete", 0, 0, i / 100) for i in range(100)]
    trials += [studied(100, "running", 0.5), studied(101, "running", 0.5)]
    ranked_trials = RankedTrials(SPACE, RUNGS, trials)
    looked = []
    monkeypatch.setattr(RankedTrials, "_end", lambda self, trial: looked.append(trial.number))
    ranked_trials.update(
        [*trials[:101], studied(101, "complete", 0, 0, 1), studied(102, "running")]
    )
    assert looked == [101]
    assert numbers(ranked_trials.running) == [100, 102]


def test_the_mean_of_the_best_is_that_of_their_shares_and_of_the_logarithms_of_their_rates() -> (
    None
):
    rng = np.random.default_rng(0)
    trials = [studied(i, "complete", 0, 0, float(rng.random())) for i in range(9)]
    trials += [StudiedTrial(9, "complete", REFERENCE, {10: 2.0}, {}), studied(10, "pruned", 3.0)]
    ranked_trials = RankedTrials(SPACE, RUNGS, trials)
    best = list(islice(ranked_trials.complete(reference=False), 4))
    found = mean_of_best(ranked_trials, SPACE, 4)
    assert found is not None
    shares = [SPACE.decode(t.params)[1] for t in best]
    for task, weight in SPACE.decode(found)[1].items():
        assert weight == pytest.approx(np.mean([s[task] for s in shares]), abs=0.03)
    rates = [math.log(t.params["lr/outer"]) for t in best]
    assert math.log(found["lr/outer"]) == pytest.approx(np.mean(rates))
    assert mean_of_best(ranked_trials, SPACE, 10) is None
