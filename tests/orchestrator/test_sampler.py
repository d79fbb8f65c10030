import math
from collections.abc import Callable, Sequence

import numpy as np
import optuna
import pytest

from orchestrator.sampler import gain, mean_of_best, suggest
from orchestrator.simplex import Simplex
from orchestrator.space import Range, SearchSpace, Values
from orchestrator.study import Studied

RUNGS = (3, 6, 10)
SPACE = SearchSpace(
    {"lr/outer": Range(1e-4, 1e-1, log=True)}, {}, Simplex(("a", "b", "c"), (1 / 3,) * 3)
)
RATES = {"lr/inner": Range(0.0, 1.0), "lr/adapt": Range(0.0, 1.0)}
FIVE = SearchSpace(RATES, {}, Simplex(tuple("abcd"), (0.25,) * 4, half_width=2))


def studied(number: int, params: Values, state: str, *scores: float) -> Studied:
    return Studied(number, state, params, dict(zip(RUNGS, scores, strict=False)), {})


def drawn(rng: np.random.Generator, space: SearchSpace = SPACE) -> Values:
    return {name: r.at(rng.random()) for name, r in space.box().items()}


def some(n: int = 14, *, diverged: int = 3) -> list[Studied]:
    """Two references, then joint trials: complete ones, stopped ones and a diverged one."""
    rng = np.random.default_rng(0)
    trials = [
        studied(i, p, "complete", 0.1, 0.2, 0.3 + i / 10)
        for i, p in enumerate(SPACE.rate_design(2, 0))
    ]
    for number in range(2, n):
        score = float(rng.random())
        if number == diverged:
            trials.append(studied(number, drawn(rng), "failed", math.nan))
        elif number % 3:
            trials.append(studied(number, drawn(rng), "complete", score, score + 0.1, score + 0.25))
        else:
            trials.append(studied(number, drawn(rng), "stopped", score))
    return trials


def shown(
    monkeypatch: pytest.MonkeyPatch, trials: Sequence[Studied]
) -> list[optuna.trial.FrozenTrial]:
    """What the Gaussian process is shown: a sampler in its place keeps it."""
    seen: list[optuna.trial.FrozenTrial] = []

    class Spy(optuna.samplers.RandomSampler):
        def __init__(self, seed: int, n_startup_trials: int) -> None:
            super().__init__(seed)

        def infer_relative_search_space(self, study, trial):
            seen.extend(t for t in study.get_trials() if t.number != trial.number)
            return {}

    monkeypatch.setattr("optuna.samplers.GPSampler", Spy)
    suggest(trials, SPACE, RUNGS, 0)
    return seen


def test_the_same_trials_and_seed_give_the_same_suggestion() -> None:
    for n in (0, 5, 14):
        trials = some(14)[:n]
        assert suggest(trials, SPACE, RUNGS, 1) == suggest(list(trials), SPACE, RUNGS, 1)
        assert suggest(trials, SPACE, RUNGS, 1) != suggest(trials, SPACE, RUNGS, 2)


@pytest.mark.parametrize("n", [0, 2, 8, 14])
def test_a_suggestion_is_inside_the_box(n: int) -> None:
    box = SPACE.box()
    for seed in range(20 if n < 10 else 3):
        found = suggest(some()[:n], SPACE, RUNGS, seed)[0]
        assert found.keys() == box.keys()
        assert all(box[k].low <= v <= box[k].high for k, v in found.items())


def test_the_first_rates_are_near_the_best_references() -> None:
    references = [
        studied(i, p, "complete", s)
        for i, (p, s) in enumerate(zip(SPACE.rate_design(3, 0), (0.2, 0.9, math.nan), strict=True))
    ]
    best = references[1].params["lr/outer"]
    for seed in range(30):
        rate = suggest(references, SPACE, RUNGS, seed)[0]["lr/outer"]
        assert best / 3.01 <= rate <= best * 3.01


def test_the_gain_is_the_mean_of_those_that_reached_both_rungs() -> None:
    trials = [
        studied(0, {}, "complete", 0.1, 0.2, 0.4),
        studied(1, {}, "complete", 0.2, 0.5, 0.9),
        studied(2, {}, "stopped", 0.9),
        studied(3, {}, "running", 0.9, 0.95),
        studied(4, {}, "failed", 0.3, 0.3, math.nan),
    ]
    assert gain(trials, 3, 10) == pytest.approx((0.3 + 0.7) / 2)
    assert gain(trials, 6, 10) == pytest.approx((0.2 + 0.4) / 2)
    assert gain(trials, 10, 10) == 0
    assert gain(trials[2:], 3, 10) == 0


def test_a_stopped_trial_is_shown_with_what_the_survivors_gained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trials = some()
    seen = shown(monkeypatch, trials)
    assert len(seen) == len(trials)
    gained = gain(trials, 3, 10)
    assert gained == pytest.approx(0.25, abs=0.05)
    for trial, sight in zip(trials, seen, strict=True):
        assert sight.params == trial.params
        assert sight.state.name == "COMPLETE"
        if trial.state == "complete":
            assert sight.value == trial.score
        elif trial.state == "stopped":
            assert sight.value == pytest.approx(trial.score + gained)


def test_a_diverged_trial_is_shown_as_no_better_than_the_worst(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trials = [*some(), studied(14, drawn(np.random.default_rng(1)), "complete", -0.5)]
    seen = shown(monkeypatch, trials)
    assert not any(math.isnan(t.value) for t in seen)
    assert seen[3].value == -0.5


def test_an_outlier_is_shown_as_no_worse_than_as_bad_as_can_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trials = [*some(), studied(14, drawn(np.random.default_rng(1)), "complete", -1e6)]
    seen = shown(monkeypatch, trials)
    assert min(t.value for t in seen) == seen[14].value == -1.0


def test_running_trials_are_shown_as_running(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    more = [studied(14, drawn(rng), "running", 0.2), studied(15, drawn(rng), "running")]
    seen = shown(monkeypatch, some() + more)
    assert [t.state.name for t in seen[-2:]] == ["RUNNING", "RUNNING"]
    assert [t.params for t in seen[-2:]] == [t.params for t in more]


def test_of_many_trials_the_best_and_the_latest_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    trials = [*some(600), studied(600, drawn(np.random.default_rng(1)), "running")]
    seen = shown(monkeypatch, trials)
    assert [t.state.name for t in seen].count("RUNNING") == 1
    assert 100 < len(seen) <= 201
    params = [t.params for t in seen]
    assert max(trials[:600], key=lambda t: t.score).params in params
    assert all(t.params in params for t in trials[-100:])


def test_a_crowd_is_suggested_inside_the_box_and_nobody_twice() -> None:
    box = SPACE.box()
    found = suggest(some(), SPACE, RUNGS, 0, 100)
    assert found == suggest(some(), SPACE, RUNGS, 0, 100)
    assert len({tuple(p.values()) for p in found}) == len(found) == 100
    assert all(box[k].low <= v <= box[k].high for p in found for k, v in p.items())


def test_a_crowd_gathers_where_the_model_expects_most() -> None:
    rng = np.random.default_rng(0)
    box = FIVE.box()
    trials = []
    for number in range(60):
        params = drawn(rng, FIVE)
        share = {k: (params[k] - r.low) / (r.high - r.low) for k, r in box.items()}
        value = -sum((x - 0.3) ** 2 for x in share.values())
        trials.append(studied(number, params, "complete", value, value, value))
    found = suggest(trials, FIVE, RUNGS, 0, 100)
    shares = [[(p[k] - r.low) / (r.high - r.low) for k, r in box.items()] for p in found]
    off = np.square(np.array(shares) - 0.3).sum(1)
    chance = 5 * (1 / 12 + 0.2**2)
    assert np.median(off) < chance / 3


def test_all_diverged_is_no_reason_not_to_suggest() -> None:
    rng = np.random.default_rng(0)
    trials = [studied(i, drawn(rng), "failed", math.nan) for i in range(12)]
    found = suggest(trials, SPACE, RUNGS, 0)[0]
    assert all(math.isfinite(v) for v in found.values())


def test_what_is_suggested_in_a_batch_keeps_apart() -> None:
    trials = some()
    batch: list[Values] = []
    for _ in range(4):
        batch.append(suggest(trials, SPACE, RUNGS, 0)[0])
        trials.append(studied(len(trials), batch[-1], "running"))
    box = SPACE.box()
    points = np.array(
        [
            [
                math.log(p[k] / r.low) / math.log(r.high / r.low)
                if r.log
                else (p[k] - r.low) / (r.high - r.low)
                for k, r in box.items()
            ]
            for p in batch
        ]
    )
    apart = np.linalg.norm(points[:, None] - points[None], axis=-1)
    assert apart[~np.eye(4, dtype=bool)].min() > 0.02


def _best_of(next_one: Callable[[list[Studied]], Values], n: int = 30) -> float:
    """Best value of a quadratic in five dimensions, none of whose optimum is in the middle."""
    trials: list[Studied] = []
    best = -math.inf
    goal = dict(zip(FIVE.box(), (0.2, 0.8, 0.7, 0.3, 0.25), strict=True))
    for number in range(n):
        params = next_one(trials)
        x = {k: (params[k] - r.low) / (r.high - r.low) for k, r in FIVE.box().items()}
        value = -sum((x[k] - goal[k]) ** 2 for k in goal)
        best = max(best, value)
        trials.append(studied(number, params, "complete", value, value, value))
    return best


def test_it_finds_a_better_region_than_chance_does() -> None:
    ours, chance = [], []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        chance.append(_best_of(lambda trials, rng=rng: drawn(rng, FIVE)))
        ours.append(_best_of(lambda trials, seed=seed: suggest(trials, FIVE, RUNGS, seed)[0]))
    assert np.median(ours) > np.median(chance) / 3


def test_the_mean_of_the_best_is_that_of_their_shares_and_of_the_logarithms_of_their_rates() -> (
    None
):
    trials = some()
    complete = [t for t in trials[2:] if t.state == "complete"]
    best = sorted(complete, key=lambda t: -t.score)[:4]
    found = mean_of_best(trials, SPACE, 4)
    assert found is not None
    shares = [SPACE.decode(t.params)[1] for t in best]
    for task, weight in SPACE.decode(found)[1].items():
        assert weight == pytest.approx(np.mean([s[task] for s in shares]), abs=1e-6)
    rates = [math.log(t.params["lr/outer"]) for t in best]
    assert math.log(found["lr/outer"]) == pytest.approx(np.mean(rates))
    assert mean_of_best(trials, SPACE, len(complete) + 1) is None
