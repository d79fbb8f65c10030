import math
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.search.decisions.halving import Decision, RungScores

scores = st.floats(-1, 1) | st.just(math.nan)
etas = st.floats(1.01, 8)


def promote(score: float, peers: Iterable[float], eta: float) -> Decision:
    found = RungScores()
    for number, peer in enumerate(peers):
        found.add(number, peer)
    return found.decide(score, eta)


@settings(deadline=None)
@given(st.lists(scores, max_size=20), st.floats(-1, 1), etas, st.randoms())
def test_the_order_of_the_peers_does_not_matter(others, score, eta, random) -> None:
    peers = [*others, score]
    shuffled = random.sample(peers, len(peers))
    assert promote(score, peers, eta) == promote(score, shuffled, eta)


@settings(deadline=None)
@given(st.lists(scores, min_size=1), etas)
def test_a_score_of_nan_never_goes_on_and_counts_for_nobody(peers, eta) -> None:
    assert promote(math.nan, [*peers, math.nan], eta).outcome is not None
    for score in peers:
        if not math.isnan(score):
            assert promote(score, [*peers, math.nan], eta) == promote(score, peers, eta)


@settings(deadline=None)
@given(st.floats(-1, 1), st.integers(1, 20), etas)
def test_ties_go_on_together(score, n, eta) -> None:
    assert promote(score, [score] * n, eta).outcome is None


@settings(deadline=None)
@given(st.sets(st.integers(-1000, 1000), min_size=1, max_size=40), etas)
def test_about_one_of_eta_goes_on_and_they_are_the_best(values, eta) -> None:
    going = {v for v in values if promote(v, values, eta).outcome is None}
    assert len(going) == max(1, math.ceil(len(values) / eta))
    assert min(going) > max(values - going, default=-math.inf)


@settings(deadline=None)
@given(scores, st.lists(scores), etas)
def test_there_is_always_a_reason(score, others, eta) -> None:
    assert promote(score, [*others, score], eta).reason


def test_the_reason_says_the_place() -> None:
    decision = promote(0.2, [0.1, 0.2, 0.3, 0.4, math.nan], 2)
    assert decision.reason == "rank 3 of 4 at this rung, the best 2 continue"
    assert decision.outcome == "pruned"
    assert promote(math.nan, [math.nan], 2).reason == "diverged"


@pytest.mark.parametrize("score", [-1.0, 0.0, 1.0])
def test_the_first_at_a_rung_goes_on(score) -> None:
    assert promote(score, [score], 3).outcome is None


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), scores)), st.floats(-1, 1), etas)
def test_only_the_last_score_of_each_trial_counts(puts, score, eta) -> None:
    peers = RungScores()
    for number, other in [*puts, (9, score)]:
        peers.add(number, other)
    assert peers.decide(score, eta) == promote(score, [*dict(puts).values(), score], eta)
