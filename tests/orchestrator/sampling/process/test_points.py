import numpy as np
import pytest

from orchestrator.sampling.process.candidates import anywhere, near
from orchestrator.sampling.process.points import Points
from orchestrator.sampling.sampler import coordinates_of
from orchestrator.space.choices import Choice, Condition, WholeRange
from orchestrator.space.search_space import Range, SearchSpace
from orchestrator.space.simplex import Simplex

TASKS = tuple("abcdef")
RANGES = {"lr/outer": Range(1e-4, 1e-1, log=True), "rank": Range(1, 8)}
UNIFORM = Simplex(TASKS, (1 / 6,) * 6, zero_below=0.02)
SPACE = SearchSpace(RANGES, {}, UNIFORM)
GROUPED = SearchSpace(
    RANGES, {}, Simplex(TASKS, (1 / 6,) * 6, zero_below=0.02, groups=tuple("xxyyyz"))
)
FIXED = SearchSpace(RANGES, {}, {"a": 1.0})
AFFINITY = dict(zip(TASKS, (0.0, 0.0, 0.1, 0.2, 0.3, 2.4), strict=True))


def drawn(space: SearchSpace, n: int = 200, affinity: dict[str, float] | None = None) -> Points:
    return anywhere(n, coordinates_of(space, affinity or {}), np.random.default_rng(0))


@pytest.mark.parametrize("space", [SPACE, GROUPED, FIXED])
def test_points_come_back_from_the_parameters(space: SearchSpace) -> None:
    coordinates = coordinates_of(space)
    points = drawn(space)
    points += near(points, 100, 0.25, coordinates, np.random.default_rng(1))
    again = coordinates.points(coordinates.params(points))
    np.testing.assert_allclose(again.shares, points.shares, atol=1e-6)
    np.testing.assert_allclose(again.scalars, points.scalars, atol=1e-9)
    assert ((points.scalars >= 0) & (points.scalars <= 1)).all()


def test_drawn_weights_go_from_single_tasks_to_all_of_them() -> None:
    shares = drawn(SPACE).shares
    np.testing.assert_allclose(shares.sum(1), 1)
    largest, tasks = shares.max(1), (shares > 0).sum(1)
    assert (largest > 0.95).mean() > 0.1
    assert (tasks >= 5).mean() > 0.1
    assert np.abs(shares.mean(0) - 1 / 6).max() < 0.06


def test_drawn_weights_lean_towards_the_affinity_and_leave_no_task_out() -> None:
    shares = drawn(SPACE, 2000, AFFINITY).shares
    means = shares.mean(0)
    assert means[5] > 0.3 > means[4] > means[0] > 0.02
    assert (shares[:, 0] > 0.5).any()


def test_drawn_weights_are_around_the_prior() -> None:
    prior = (0.5, 0.1, 0.1, 0.1, 0.1, 0.1)
    space = SearchSpace(RANGES, {}, Simplex(TASKS, prior, zero_below=0.02))
    assert drawn(space, 2000).shares.mean(0) == pytest.approx(prior, abs=0.04)


def test_groups_have_one_share_and_the_mean_affinity_of_their_tasks() -> None:
    coordinates = coordinates_of(GROUPED, AFFINITY)
    assert coordinates.prior == pytest.approx([1 / 3, 1 / 2, 1 / 6])
    assert coordinates.affinity == pytest.approx([0, 0.2, 2.4])
    assert coordinates.features(drawn(GROUPED)).shape == (200, 3 + 2 + 1)


def test_the_model_sees_square_roots_of_shares() -> None:
    points = Points(np.array([[0.25, 0.75, 0, 0, 0, 0]]), np.array([[0.1, 0.2]]))
    seen = coordinates_of(SPACE).features(points)
    assert seen[0] == pytest.approx([0.5, 0.75**0.5, 0, 0, 0, 0, 0.1, 0.2])


def test_points_near_others_are_nearer_the_smaller_the_spread() -> None:
    coordinates, centre = coordinates_of(SPACE), drawn(SPACE, 1)
    roots = np.sqrt(centre.shares)

    def distance(spread: float) -> float:
        points = near(centre, 300, spread, coordinates, np.random.default_rng(0))
        return float(np.abs(np.sqrt(points.shares) - roots).mean())

    assert distance(0.02) < distance(0.1) < distance(0.4)


LEARNER = Choice(("protonet", "maml"))
SEVERAL = SearchSpace(
    {"lr/outer": Range(1e-4, 1e-1, log=True), "lr/inner": Range(1e-2, 1.0, log=True)},
    {},
    UNIFORM,
    {"learner": LEARNER, "learner.maml.inner_steps": WholeRange(1, 5)},
    dict.fromkeys(("lr/inner", "learner.maml.inner_steps"), (Condition("learner", ("maml",)),)),
)


def test_points_of_several_recipes_come_back_with_what_they_read() -> None:
    coordinates = coordinates_of(SEVERAL)
    points = drawn(SEVERAL)
    params = coordinates.params(points)
    assert {p["learner"] for p in params} == {"protonet", "maml"}
    for p in params:
        assert ("lr/inner" in p) == ("learner.maml.inner_steps" in p) == (p["learner"] == "maml")
    again = coordinates.points(params)
    np.testing.assert_allclose(coordinates.features(again), coordinates.features(points), atol=1e-6)


def test_what_is_not_read_makes_no_difference_to_the_model() -> None:
    coordinates = coordinates_of(SEVERAL)
    points = drawn(SEVERAL)
    learner = coordinates.params(points)
    rows = [i for i, p in enumerate(learner) if p["learner"] == "protonet"]
    other = Points(points.shares, points.scalars.copy())
    other.scalars[:, [1, 3]] = 0.9  # lr/inner and the inner steps
    same = coordinates.features(points)[rows] == coordinates.features(other)[rows]
    assert same.all()
    assert not (coordinates.features(points) == coordinates.features(other)).all()
