"""Comparisons with pooled models: their intervals, and the sentences on where adaptation wins."""

import math

import pytest

from orchestrator.results.pooled import PooledComparison, gain_interval, pooled_sentences
from orchestrator.search.finals.intervals import Interval

POOLED = "the pooled model without adaptation"


def compared(task, mean, half):
    return PooledComparison(POOLED, task, Interval(mean, mean - half, mean + half))


def test_an_interval_is_over_episodes_and_seeds():
    seeds = [{"over_pooled": gain, "over_pooled_se": 0.03} for gain in (0.10, 0.14)]
    found = gain_interval(seeds, "over_pooled")
    half = 1.96 * math.sqrt(0.02**2 + 0.03**2)
    assert (found.mean, found.low) == pytest.approx((0.12, 0.12 - half))
    alone = gain_interval(seeds[:1], "over_pooled")
    assert alone.high == pytest.approx(0.10 + 1.96 * 0.03)


def test_sentences_say_where_adaptation_wins_and_where_it_does_not():
    text = pooled_sentences([compared("a", 0.05, 0.01), compared("b", 0.005, 0.01)])
    assert text == (
        f"Adaptation beats {POOLED} on a (+5.0 points, 95 % interval +4.0 to +6.0). "
        f"Adaptation does not beat {POOLED} on b (+0.5 points, 95 % interval -0.5 to +1.5)."
    )
    many = pooled_sentences([compared(f"t{i}", -0.1, 0.01) for i in range(7)])
    assert many.endswith("and 3 more tasks.")
    assert pooled_sentences([]) == ""
