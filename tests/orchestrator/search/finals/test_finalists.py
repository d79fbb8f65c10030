import math

import numpy as np
import pytest

from orchestrator.record.studies.study import StudiedTrial
from orchestrator.sampling.ranked_trials import RankedTrials
from orchestrator.search.finals.finalists import Candidate, candidates
from orchestrator.search.finals.intervals import (
    Interval,
    interval,
    interval_of_problems,
    verdict,
)
from tests.orchestrator import toys

SPACE, RUNGS = toys.plan().space, toys.plan().rungs
REFERENCE = SPACE.reference() | {"lr/outer": 0.01}
OTHER = dict.fromkeys(SPACE.box(), 0.05)


def coverage(
    seeds: float, tasks: float, noise: float, shape: tuple[int, int], **how: bool
) -> float:
    """How often the interval has the truth, of tables with effects of seeds and of tasks."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(500):
        table = (
            0.5
            + seeds * rng.normal(size=(shape[0], 1))
            + tasks * rng.normal(size=(1, shape[1]))
            + noise * rng.normal(size=shape)
        )
        found = interval(table, **how)
        hits += found.low <= 0.5 <= found.high
    return hits / 500


@pytest.mark.parametrize("shape", [(3, 5), (3, 12), (8, 20)])
@pytest.mark.parametrize(
    ("seeds", "tasks", "noise"), [(0.01, 0.03, 0.005), (0.03, 0.01, 0.005), (0.02, 0.02, 0.0)]
)
def test_the_interval_has_the_truth_about_19_times_in_20(seeds, tasks, noise, shape) -> None:
    assert 0.92 <= coverage(seeds, tasks, noise, shape, of_tasks=True) <= 0.995


def test_without_a_sample_of_tasks_the_interval_speaks_of_the_seeds() -> None:
    assert 0.93 <= coverage(0.02, 0.0, 0.01, (4, 6), of_tasks=False) <= 0.97
    # Effects of the tasks are then no noise: they shift the truth.
    table = np.array([[0.1, 0.5, 0.9], [0.2, 0.6, 1.0], [0.3, 0.7, 0.2]])
    of_seeds, of_both = (interval(table, of_tasks=choice) for choice in (False, True))
    assert of_seeds.mean == pytest.approx(0.5)
    error = np.std([0.5, 0.6, 0.4], ddof=1) / math.sqrt(3)
    assert of_seeds.high - of_seeds.mean == pytest.approx(4.303 * error, rel=1e-3)
    assert of_both.high - of_both.mean > of_seeds.high - of_seeds.mean


def test_problems_of_few_tasks_are_the_sample() -> None:
    rng, hits = np.random.default_rng(0), 0
    for _ in range(500):
        seeds = 0.02 * rng.normal(size=(4, 1))
        tables = [
            0.5 + seeds + 0.2 * rng.normal(size=(1, n)) + 0.02 * rng.normal(size=(4, n))
            for n in (40, 90)
        ]
        found = interval_of_problems(tables)
        hits += found.low <= 0.5 <= found.high
    assert 0.92 <= hits / 500 <= 0.98
    assert found.note == "over seeds and 130 problems"
    alone = interval_of_problems([tables[0][:1]])
    assert alone.low < alone.mean < alone.high
    assert alone.note == "over 40 problems"


@pytest.mark.parametrize(("n", "said"), [(1, "1 task is too few"), (2, "2 tasks are too few")])
def test_too_few_tasks_are_no_sample_and_the_interval_says_so(n, said) -> None:
    table = np.array([[0.1, 0.8], [0.2, 0.8], [0.4, 0.8]])[:, :n]
    of_both, of_seeds = (interval(table, of_tasks=choice) for choice in (True, False))
    assert (of_both.low, of_both.high) == (of_seeds.low, of_seeds.high)
    assert said in of_both.note
    assert of_seeds.note == ""


@pytest.mark.parametrize("seeds", [1, 2])
def test_too_few_seeds_have_no_interval_and_it_says_so(seeds) -> None:
    table = np.array([[0.3], [0.9]])[:seeds]
    found = interval(table, of_tasks=True)
    assert found.mean == pytest.approx(table.mean())
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert found.note.endswith("too few for an interval")


def test_an_interval_stays_among_possible_values() -> None:
    table = np.array([[0.2], [0.9], [1.0]])
    free, bound = interval(table, of_tasks=False), interval(table, of_tasks=False, within=(0, 1))
    assert free.low < 0
    assert free.high > 1
    assert (bound.mean, bound.low, bound.high) == (free.mean, 0, 1)


def test_equal_numbers_have_an_interval_of_no_width() -> None:
    assert interval(np.full((3, 4), 0.5), of_tasks=True) == Interval(0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.001, 0.3, "better"),
        (-0.1, 0.009, "no better"),
        (-0.3, -0.1, "no better"),
        (-0.001, 0.02, "undecided"),
        (0.0, 0.3, "undecided"),
        (-0.1, 0.01, "undecided"),
        (math.nan, math.nan, "undecided"),
        (0.001, 0.005, "better"),
    ],
)
def test_verdicts(low, high, said) -> None:
    assert verdict(Interval((low + high) / 2, low, high)) == said


def trial(
    number: int, score: float, params: dict[str, float], state: str = "complete"
) -> StudiedTrial:
    return StudiedTrial(number, state, params, {10: score}, {})


def chosen(trials: list[StudiedTrial], n: int) -> list[Candidate]:
    return candidates(RankedTrials(SPACE, RUNGS, trials), n)


def test_candidates_are_the_best_complete_ones_and_the_best_reference() -> None:
    trials = [
        trial(0, 0.3, REFERENCE),
        trial(1, 0.5, REFERENCE | {"lr/outer": 0.02}),
        trial(2, 0.6, OTHER),
        trial(3, 0.9, OTHER, "pruned"),
        trial(4, 0.1, OTHER),
        trial(5, math.nan, OTHER, "failed"),
        trial(6, 0.7, OTHER),
        trial(7, 0.4, OTHER),
        trial(8, 0.6, OTHER),
    ]
    found = chosen(trials, 2)
    assert [(c.number, c.role) for c in found] == [
        (1, "uniform"),
        (6, "searched"),
        (2, "searched"),
    ]
    assert found[0].params["lr/outer"] == 0.02
    assert [c.number for c in chosen(trials, 9)] == [1, 6, 2, 8, 7, 4]


def test_a_running_trial_leaves_open_whether_the_last_is_a_candidate() -> None:
    ended = [trial(0, 0.5, REFERENCE), trial(1, 0.7, OTHER), trial(2, 0.6, OTHER)]
    assert [c.number for c in chosen(ended, 2)] == [0, 1, 2]
    running = [*ended, trial(3, 0.1, OTHER, "running")]
    assert [c.number for c in chosen(running, 2)] == [0, 1]
    assert [c.number for c in chosen([*running, running[3]], 2)] == [0]
    reference = [*ended, trial(3, 0.1, REFERENCE, "running")]
    assert [c.number for c in chosen(reference, 2)] == [1, 2]


def test_there_may_be_no_candidates() -> None:
    assert chosen([], 3) == []
    assert chosen([trial(0, math.nan, OTHER, "failed")], 3) == []
