import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orchestrator.space.simplex import Simplex, shared

TASKS = ("greek", "latin", "korean", "lao")


def uniform(d: int = 4, **more: float) -> Simplex:
    return Simplex(tuple(f"t{i}" for i in range(d)), (1 / d,) * d, **more)


@st.composite
def simplexes(draw: st.DrawFn, zero_below: bool = True) -> Simplex:
    d = draw(st.integers(2, 6))
    raw = draw(st.lists(st.floats(0.05, 1), min_size=d, max_size=d))
    return Simplex(
        tuple(f"t{i}" for i in range(d)),
        tuple(x / sum(raw) for x in raw),
        half_width=draw(st.floats(0.5, 10)),
        zero_below=draw(st.floats(0, 0.9 / d)) if zero_below else 0.0,
    )


@st.composite
def points(draw: st.DrawFn, zero_below: bool = True) -> tuple[Simplex, dict[str, float]]:
    simplex = draw(simplexes(zero_below))
    inside = st.floats(-simplex.half_width, simplex.half_width)
    return simplex, {name: draw(inside) for name in simplex.names}


def distance(simplex: Simplex, a: dict[str, float], b: dict[str, float]) -> float:
    x, y = simplex.encode(a), simplex.encode(b)
    return math.dist(list(x.values()), list(y.values()))


@settings(deadline=None)
@given(points())
def test_any_coordinates_are_weights(point: tuple[Simplex, dict[str, float]]) -> None:
    simplex, z = point
    weights = simplex.decode(z)
    assert tuple(weights) == simplex.tasks
    assert min(weights.values()) >= 0
    assert math.isclose(sum(weights.values()), 1, abs_tol=1e-12)


@settings(deadline=None)
@given(points())
def test_a_weight_is_zero_or_not_below_what_counts_as_zero(
    point: tuple[Simplex, dict[str, float]],
) -> None:
    simplex, z = point
    assert all(w == 0 or w >= simplex.zero_below for w in simplex.decode(z).values())


@settings(deadline=None)
@given(points(zero_below=False))
def test_coordinates_come_back_when_nothing_is_off(
    point: tuple[Simplex, dict[str, float]],
) -> None:
    simplex, z = point
    wide = Simplex(simplex.tasks, simplex.prior, half_width=simplex.half_width + 1e-6)
    again = wide.encode(simplex.decode(z))
    assert again == pytest.approx(z, abs=1e-6)


@settings(deadline=None)
@given(
    st.lists(st.one_of(st.just(0.0), st.floats(0.3, 1)), min_size=2, max_size=7).filter(
        lambda raw: sum(raw) > 0
    )
)
def test_weights_come_back_exactly_and_zeros_as_zeros(raw: list[float]) -> None:
    d = len(raw)
    simplex = uniform(d, half_width=50, zero_below=0.2 / d)
    weights = {t: x / sum(raw) for t, x in zip(simplex.tasks, raw, strict=True)}
    again = simplex.decode(simplex.encode(weights))
    assert again == pytest.approx(weights, abs=1e-9)
    assert [t for t in weights if weights[t] == 0] == [t for t in again if again[t] == 0]


@settings(deadline=None)
@given(simplexes())
def test_the_prior_is_where_the_coordinates_are_zero(simplex: Simplex) -> None:
    origin = dict.fromkeys(simplex.names, 0.0)
    prior = dict(zip(simplex.tasks, simplex.prior, strict=True))
    if min(simplex.prior) >= simplex.zero_below:
        assert simplex.decode(origin) == pytest.approx(prior, abs=1e-12)
        assert simplex.encode(prior) == pytest.approx(origin, abs=1e-9)


@pytest.mark.parametrize("d", [2, 3, 8])
def test_the_basis_is_orthonormal_and_its_columns_sum_to_zero(d: int) -> None:
    basis = uniform(d).basis
    np.testing.assert_allclose(basis.T @ basis, np.eye(d - 1), atol=1e-12)
    np.testing.assert_allclose(basis.sum(0), 0, atol=1e-12)


def test_distances_do_not_depend_on_the_order_of_the_tasks() -> None:
    prior = dict(zip(TASKS, (0.1, 0.2, 0.3, 0.4), strict=True))
    a = dict(zip(TASKS, (0.4, 0.3, 0.2, 0.1), strict=True))
    b = dict(zip(TASKS, (0.05, 0.05, 0.1, 0.8), strict=True))
    found = [
        distance(Simplex(order, tuple(prior[t] for t in order), half_width=10), a, b)
        for order in itertools.permutations(TASKS)
    ]
    assert found[0] > 1
    assert found == pytest.approx([found[0]] * 24, abs=1e-9)


def test_there_is_one_coordinate_less_than_tasks() -> None:
    assert uniform(3).names == ("lambda.ilr1", "lambda.ilr2")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"tasks": ("a",), "prior": (1.0,)}, "two tasks"),
        ({"prior": (0.5, 0.25, 0.25)}, "prior for each"),
        ({"prior": (0.0, 1.0)}, "positive"),
        ({"prior": (-0.5, 1.5)}, "positive"),
        ({"prior": (0.5, 0.4)}, "sum to 1"),
        ({"prior": (math.nan, 0.5)}, "sum to 1"),
        ({"half_width": 0.0}, "half_width"),
        ({"half_width": -1.0}, "half_width"),
        ({"zero_below": -0.1}, "zero_below"),
        ({"zero_below": 0.5}, "zero_below"),
    ],
)
def test_what_is_no_simplex_is_refused(more: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Simplex(**({"tasks": ("a", "b"), "prior": (0.5, 0.5)} | more))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("weights", "zero_below", "said"),
    [
        ({"t0": 0.5, "t1": 0.4}, 0.0, "sum to 1"),
        ({"t0": -0.5, "t1": 1.5}, 0.0, ">= 0"),
        ({"t0": math.nan, "t1": 0.5}, 0.0, "sum to 1"),
        ({"t0": 0.5, "other": 0.5}, 0.1, "sum to 1"),
        ({"t0": 0.999999, "t1": 0.000001}, 0.0, "`half_width` must be at least 9.77"),
        ({"t0": 1.0}, 0.0, "needs `zero_below` > 0"),
        ({"t0": 0.95, "t1": 0.05}, 0.1, "Positive weights must not be below"),
    ],
)
def test_weights_that_no_coordinates_stand_for_are_refused(
    weights: dict[str, float], zero_below: float, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        uniform(2, zero_below=zero_below).encode(weights)


# ---- groups -----------------------------------------------------------------------------------


def grouped(**more: float) -> Simplex:
    """Six tasks in three groups of one, two and three."""
    tasks = tuple(f"t{i}" for i in range(6))
    return Simplex(tasks, (1 / 6,) * 6, groups=("a", "b", "b", "c", "c", "c"), **more)


def test_groups_have_one_coordinate_less_than_there_are() -> None:
    assert grouped().names == ("lambda.ilr1", "lambda.ilr2")
    weights = grouped().decode({"lambda.ilr1": 0, "lambda.ilr2": 0})
    assert list(weights.values()) == pytest.approx([1 / 6] * 6)


@settings(deadline=None)
@given(st.floats(-3, 3), st.floats(-3, 3))
@example(2.71875, 3.0)  # three zeros, and others that are hardly above what counts as zero
def test_a_group_shares_its_weight_equally(x: float, y: float) -> None:
    simplex = grouped(zero_below=0.02)
    weights = simplex.decode({"lambda.ilr1": x, "lambda.ilr2": y})
    a, *bc = weights.values()
    assert bc[0] == bc[1]
    assert bc[2] == bc[3] == bc[4]
    assert a + sum(bc) == pytest.approx(1)
    assert all(w == 0 or w >= 0.02 for w in weights.values())
    again = simplex.decode(simplex.encode(weights))
    assert list(again.values()) == pytest.approx(list(weights.values()), abs=1e-6)


def test_groups_are_weighed_as_the_same_number_of_tasks_is() -> None:
    """But for their sizes, which only decide what the prior of a group is."""
    groups, tasks = grouped(), Simplex(("a", "b", "c"), (1 / 6, 2 / 6, 3 / 6))
    z = {"lambda.ilr1": 0.7, "lambda.ilr2": -1.1}
    of_group = dict.fromkeys("abc", 0.0)
    for group, weight in zip(groups.groups, groups.decode(z).values(), strict=True):
        of_group[group] += weight
    assert of_group == pytest.approx(tasks.decode(z))


def test_weights_that_differ_in_a_group_have_no_coordinates() -> None:
    weights = dict(zip(grouped().tasks, (0.2, 0.2, 0.1, 0.2, 0.2, 0.1), strict=True))
    with pytest.raises(ValueError, match="equal within a group"):
        grouped().encode(weights)
    assert list(shared(weights, grouped().groups).values()) == pytest.approx(
        [0.2, 0.15, 0.15, 1 / 6, 1 / 6, 1 / 6]
    )


@pytest.mark.parametrize("groups", [("a",) * 6, ("a", "b")])
def test_there_are_two_groups_and_each_task_is_in_one(groups: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"two|one name per task"):
        Simplex(tuple("abcdef"), (1 / 6,) * 6, groups=groups)


@settings(deadline=None)
@given(
    simplexes(),
    st.lists(st.one_of(st.just(0.0), st.floats(0, 1)), min_size=6, max_size=6),
    st.floats(0.01, 0.7),
)
def test_the_default_box_contains_all_weights_without_small_ones(
    simplex: Simplex, raw: list[float], zero_below: float
) -> None:
    d = len(simplex.tasks)
    wide = Simplex(simplex.tasks, simplex.prior, zero_below=zero_below / d)
    shares = np.array(raw[:d]) + 1e-9
    shares = wide.without_small(shares[None] / shares.sum())[0]
    decoded = wide.decode(wide.encode_nearest(shares))
    assert list(decoded.values()) == pytest.approx(shares, abs=1e-6)


def test_a_single_task_is_in_the_default_box_of_many_tasks() -> None:
    simplex = uniform(40, zero_below=0.2 / 40)
    alone = simplex.decode(simplex.encode({"t7": 1.0}))
    assert alone["t7"] == 1
    assert sum(alone.values()) == 1


def test_shares_outside_a_narrow_box_are_moved_towards_the_prior() -> None:
    simplex = uniform(4, half_width=1.0, zero_below=0.02)
    found = simplex.decode(simplex.encode_nearest(np.array([1.0, 0.0, 0.0, 0.0])))
    assert 0.4 < found["t0"] < 1
    assert found["t1"] == pytest.approx(found["t3"])


def test_shares_of_groups_are_spread_evenly_over_their_tasks() -> None:
    simplex = Simplex(tuple("abc"), (1 / 3,) * 3, zero_below=0.05, groups=("x", "y", "x"))
    found = simplex.decode(simplex.encode_nearest(np.array([0.8, 0.2])))
    assert found == pytest.approx({"a": 0.4, "b": 0.2, "c": 0.4})
    assert simplex.group_shares(np.array([[0.4, 0.2, 0.4]]))[0] == pytest.approx([0.8, 0.2])


def test_weights_that_are_all_near_the_uniform_weight_can_be_encoded():
    simplex = uniform(2, zero_below=0.4375)
    shares = simplex.without_small(np.array([[4 / 7, 3 / 7]]))[0]
    assert shares.tolist() == [1.0, 0.0]
    assert list(simplex.decode(simplex.encode_nearest(shares)).values()) == [1.0, 0.0]
