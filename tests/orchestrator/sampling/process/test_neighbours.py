"""The similarity of training tasks, as the sampler uses it."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from orchestrator.sampling.process.candidates import anywhere, near
from orchestrator.sampling.process.gaussian_process import GaussianProcess
from orchestrator.sampling.process.points import Points
from orchestrator.sampling.sampler import coordinates_of
from orchestrator.space.search_space import SearchSpace
from orchestrator.space.simplex import Simplex

N, KINDS = 16, 4
OF = np.arange(N) % KINDS
NAMES = tuple(f"t{i}" for i in range(N))
SPACE = SearchSpace({}, {}, Simplex(NAMES, (1 / N,) * N, zero_below=0.005))
RIGHT = np.where(OF[:, None] == OF[None], 0.7, -0.2) + 0.3 * np.eye(N)
WRONG = np.roll(np.roll(RIGHT, 3, 0), 3, 1)[:, np.random.default_rng(0).permutation(N)]


def test_shares_are_divided_among_similar_tasks() -> None:
    place = coordinates_of(SPACE, similarity=RIGHT)
    assert place.neighbours.sum(1) == pytest.approx(np.ones(N))
    assert (place.neighbours[OF[:, None] != OF[None]] == 0).all()
    points = anywhere(50, place, np.random.default_rng(0))
    plain = coordinates_of(SPACE).features(points)
    seen = place.features(points)
    np.testing.assert_array_equal(seen[:, :N], plain)
    divided = seen[:, N:] ** 2
    by_kind = [divided[:, k == OF].sum(1) for k in range(KINDS)]
    wanted = [points.shares[:, k == OF].sum(1) for k in range(KINDS)]
    np.testing.assert_allclose(by_kind, wanted)


def test_tasks_of_a_group_in_the_config_have_their_mean_similarity() -> None:
    groups = tuple("aab" + "c" * (N - 3))
    grouped = Simplex(NAMES, (1 / N,) * N, zero_below=0.005, groups=groups)
    place = coordinates_of(SearchSpace({}, {}, grouped), similarity=RIGHT)
    assert place.neighbours.shape == (3, 3)
    assert place.features(Points(np.eye(3), np.zeros((3, 0)))).shape == (3, 6)


def test_without_similarity_nothing_changes() -> None:
    plain, empty = coordinates_of(SPACE), coordinates_of(SPACE, similarity=())
    assert plain.neighbours is empty.neighbours is None
    assert plain.widths == (N, 0, 0, 0)


def test_similar_tasks_get_their_shares_together_in_some_candidates() -> None:
    place, centre = (
        coordinates_of(SPACE, similarity=RIGHT),
        Points(np.full((1, N), 1 / N), np.zeros((1, 0))),
    )
    moved = near(centre, 400, 0.2, place, np.random.default_rng(0)).shares - 1 / N
    apart = near(centre, 400, 0.2, coordinates_of(SPACE), np.random.default_rng(0)).shares - 1 / N

    def within(changes: np.ndarray) -> float:
        correlations = np.corrcoef(changes.T)
        return float(correlations[(OF[:, None] == OF[None]) & ~np.eye(N, dtype=bool)].mean())

    assert within(moved) > 0.2 > within(apart)


def test_the_model_learns_from_similar_tasks_and_bears_wrong_similarities() -> None:
    found: dict[str, list[float]] = {"plain": [], "right": [], "wrong": []}
    for seed in range(3):
        rng = np.random.default_rng(seed)
        effects = rng.standard_normal(KINDS)[OF] + 0.3 * rng.standard_normal(N)
        plain = coordinates_of(SPACE)
        points, unseen = anywhere(20, plain, rng), anywhere(200, plain, rng)
        values = [(1 - np.exp(-p.shares / 0.1)) @ effects for p in (points, unseen)]
        for name, similarity in (("plain", ()), ("right", RIGHT), ("wrong", WRONG)):
            place = coordinates_of(SPACE, similarity=similarity)
            process = GaussianProcess(place, points, values[0])
            guess = process.means(unseen)
            found[name].append(spearmanr(guess, values[1])[0])
    means = {name: np.mean(values) for name, values in found.items()}
    assert means["right"] > means["plain"] + 0.05
    assert means["wrong"] > means["plain"] - 0.1
