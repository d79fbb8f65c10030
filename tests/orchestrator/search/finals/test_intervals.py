"""Intervals over seeds and tasks."""

import numpy as np
import pytest

from orchestrator.search.finals.intervals import interval


@pytest.mark.parametrize("noise", [0.0, 1e-17, 1e-16])
def test_seeds_that_differ_by_rounding_differ_in_nothing(noise):
    table = 0.3 + noise * np.array([[1.0], [-1.0]])
    found = interval(table, of_tasks=False)
    assert (found.low, found.high) == pytest.approx((0.3, 0.3), abs=1e-12)


def test_two_seeds_that_differ_have_no_interval():
    assert np.isnan(interval(np.array([[0.3], [0.4]]), of_tasks=False).low)
