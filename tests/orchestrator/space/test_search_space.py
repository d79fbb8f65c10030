import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.space.search_space import SOFT_WEIGHT, TEMPERATURE, Range, SearchSpace
from orchestrator.space.simplex import Simplex

TASKS = ("greek", "latin", "korean")
RATE = Range(1e-4, 1e-1, log=True)
RATES = {"lr/outer": RATE, "lr/inner": Range(1e-3, 1.0, log=True), "lr/adapt": Range(0.1, 0.5)}
SIMPLEX = Simplex(TASKS, (0.5, 0.3, 0.2), half_width=3.5, zero_below=0.05)
WEIGHTED = SearchSpace({"lr/outer": RATE}, {"lr/adapt": 0.3}, SIMPLEX)
DISTILLING = SearchSpace(
    {"lr/adapt": RATE, SOFT_WEIGHT: Range(0.0, 1.0), TEMPERATURE: Range(1, 20, log=True)}, {}, {}
)


def test_the_middle_of_a_log_range_is_its_geometric_mean() -> None:
    assert RATE.at(0.5) == pytest.approx(math.sqrt(1e-4 * 1e-1))
    assert Range(1, 3).at(0.5) == 2


@settings(deadline=None)
@given(st.floats(0, 1), st.floats(1e-9, 1), st.floats(1.001, 1e9), st.booleans())
def test_a_value_stays_in_its_range(share, low, factor, log) -> None:
    r = Range(low, low * factor, log)
    assert r.low <= r.at(share) <= r.high
    assert r.share(r.at(share)) == pytest.approx(share, abs=1e-6)


def test_the_box_has_the_rates_and_the_coordinates() -> None:
    assert WEIGHTED.box() == {
        "lr/outer": RATE,
        "lambda.ilr1": Range(-3.5, 3.5),
        "lambda.ilr2": Range(-3.5, 3.5),
    }
    assert SearchSpace({"lr/outer": RATE}, {}, {"greek": 1.0}).box() == {"lr/outer": RATE}


def test_decoding_gives_searched_and_fixed_hyperparameters_and_the_weights() -> None:
    params = {"lr/outer": 0.01, "lambda.ilr1": 0.0, "lambda.ilr2": 0.0}
    hyperparameters, weights = WEIGHTED.decode(params)
    assert hyperparameters == {"lr/outer": 0.01, "lr/adapt": 0.3}
    assert weights == pytest.approx({"greek": 0.5, "latin": 0.3, "korean": 0.2})


def test_fixed_weights_are_given_back_as_they_are() -> None:
    space = SearchSpace({"lr/outer": RATE}, {}, {"greek": 0.7, "latin": 0.3})
    assert space.decode({"lr/outer": 0.01}) == ({"lr/outer": 0.01}, {"greek": 0.7, "latin": 0.3})


def test_the_reference_has_uniform_weights_whatever_the_prior() -> None:
    weights = WEIGHTED.decode(WEIGHTED.reference() | {"lr/outer": 0.01})[1]
    assert weights == pytest.approx(dict.fromkeys(TASKS, 1 / 3))


def test_the_reference_of_a_distillation_learns_from_labels_alone() -> None:
    assert DISTILLING.reference() == {SOFT_WEIGHT: 0.0, TEMPERATURE: 1}
    assert DISTILLING.rates() == ("lr/adapt",)


def test_a_temperature_that_is_searched_alone_is_a_rate() -> None:
    space = SearchSpace({TEMPERATURE: Range(1, 20)}, {SOFT_WEIGHT: 0.5}, {})
    assert space.reference() == {}
    assert space.rates() == (TEMPERATURE,)


def test_the_reference_is_known_at_any_rate_and_nothing_else_is() -> None:
    for space in (WEIGHTED, DISTILLING):
        rate = space.rates()[0]
        reference = space.reference() | {rate: 0.02}
        assert space.is_reference(reference)
        for name in space.reference():
            assert not space.is_reference(reference | {name: reference[name] + 0.01})


def test_without_weights_or_distillation_there_is_no_reference() -> None:
    space = SearchSpace({"lr/outer": RATE}, {}, {"greek": 1.0})
    assert space.reference() == {}
    assert not space.is_reference({"lr/outer": 0.01})


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=3, max_size=3).filter(lambda raw: sum(raw) > 1e-3))
def test_chosen_weights_always_fit_into_the_box(raw) -> None:
    weights = {t: x / sum(raw) for t, x in zip(TASKS, raw, strict=True)}
    for zero_below in (0.0, 0.05):
        simplex = Simplex(TASKS, (1 / 3,) * 3, half_width=1.0, zero_below=zero_below)
        space = SearchSpace({"lr/outer": RATE}, {}, simplex)
        params = space.with_weights(weights)
        box = space.box()
        assert params.keys() == box.keys()
        assert all(box[k].low <= v <= box[k].high for k, v in params.items())


def test_weights_that_fit_are_taken_as_they_are_and_extreme_ones_keep_their_order() -> None:
    moderate = {"greek": 0.5, "latin": 0.3, "korean": 0.2}
    assert WEIGHTED.decode(WEIGHTED.with_weights(moderate))[1] == pytest.approx(moderate)
    narrow = Simplex(TASKS, (1 / 3,) * 3, half_width=1.5, zero_below=0.05)
    space = SearchSpace({"lr/outer": RATE}, {}, narrow)
    weights = space.decode(space.with_weights({"greek": 0.9, "latin": 0.08, "korean": 0.02}))[1]
    assert 0.9 > weights["greek"] > weights["latin"] > weights["korean"]


@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_design_spreads_the_rates_over_their_ranges(k: int) -> None:
    ranges = dict(list(RATES.items())[:k])
    space = SearchSpace(ranges, {}, SIMPLEX)
    design = space.rate_design(8, seed=3)
    assert len(design) == 8
    assert all(space.is_reference(point) for point in design)
    for name, r in ranges.items():
        values = [point[name] for point in design]
        assert all(r.low <= v <= r.high for v in values)
        assert len(set(values)) == 8
        # No quarter of a range (of its logarithm, if it is on that scale) is left out.
        edges = [r.at(i / 4) for i in range(5)]
        for low, high in itertools.pairwise(edges):
            assert any(low <= v <= high for v in values)


def test_a_design_of_one_rate_begins_in_the_middle() -> None:
    first, *_ = WEIGHTED.rate_design(5, seed=0)
    assert first["lr/outer"] == pytest.approx(RATE.at(0.5))


@pytest.mark.filterwarnings("error")
def test_a_design_depends_on_nothing_but_its_seed() -> None:
    space = SearchSpace(RATES, {}, SIMPLEX)
    assert space.rate_design(5, 1) == space.rate_design(5, 1)
    assert space.rate_design(5, 1) != space.rate_design(5, 2)


def test_a_design_without_rates_is_the_reference_once() -> None:
    space = SearchSpace({}, {"lr/outer": 0.01}, SIMPLEX)
    assert space.rate_design(2, 0) == [space.reference()]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.floats(0.1, 0.9), min_size=3, max_size=3), min_size=1, max_size=6))
def test_the_mean_of_points_lies_in_the_box_and_between_them(points) -> None:
    for zero_below in (0.0, 0.1):
        simplex = Simplex(TASKS, (1 / 3,) * 3, half_width=3.5, zero_below=zero_below)
        space = SearchSpace({"lr/outer": RATE}, {}, simplex)
        box = space.box()
        given_ = [{k: r.at(x) for (k, r), x in zip(box.items(), p, strict=True)} for p in points]
        mean = space.mean(given_)
        assert all(box[k].low <= v <= box[k].high for k, v in mean.items())
        shares = [space.decode(p)[1] for p in given_]
        found = space.decode(mean)[1]
        if zero_below == 0.0 and len(points) == 1:
            assert found == pytest.approx(shares[0])
        for task, weight in found.items():
            most = max(s[task] for s in shares)
            assert weight <= most / (1 - 3 * zero_below) + 1e-9
