import numpy as np
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from orchestrator.sampling.process import dimensions
from orchestrator.sampling.process.dimensions import dimension

EVERY = [
    FloatDistribution(-2, 3),
    FloatDistribution(1e-5, 1e-1, log=True),
    FloatDistribution(0, 1, step=0.25),
    IntDistribution(1, 7),
    IntDistribution(0, 9, step=3),
    IntDistribution(1, 64, log=True),
    CategoricalDistribution(["protonet", "maml", None, 3]),
]


@pytest.mark.parametrize("of", EVERY, ids=str)
def test_every_position_is_a_value_and_comes_back(of: BaseDistribution) -> None:
    one = dimension(of)
    positions = np.linspace(0, 1, 101)
    for position in positions:
        value = one.value(float(position))
        if isinstance(of, CategoricalDistribution):
            assert value in of.choices
        else:
            assert of.low <= value <= of.high
            assert isinstance(value, int) == isinstance(of, IntDistribution)
        again = one.value(one.position(value))
        assert again == (pytest.approx(value) if isinstance(value, float) else value)
    assert one.features(positions).shape == (101, one.width)


@pytest.mark.parametrize("of", EVERY[2:], ids=str)
def test_positions_of_the_same_value_look_the_same(of: BaseDistribution) -> None:
    one = dimension(of)
    positions = np.linspace(0, 1, 101)
    seen = {}
    for position, row in zip(positions, one.features(positions), strict=True):
        assert seen.setdefault(one.value(float(position)), tuple(row)) == tuple(row)
    assert len(set(seen.values())) == len(seen) > 2


def test_each_whole_number_has_its_share_of_the_positions() -> None:
    one = dimension(IntDistribution(1, 3, log=True))
    values = [one.value(float(p)) for p in np.linspace(0, 1, 1001)]
    assert {v: values.count(v) for v in values}.keys() == {1, 2, 3}
    assert values.count(1) > values.count(2) > values.count(3) > 100


def test_different_choices_are_equally_far_apart() -> None:
    rows = dimension(CategoricalDistribution("abc")).features(np.array([0.1, 0.5, 0.9]))
    distances = np.linalg.norm(rows[:, None] - rows[None], axis=-1)
    assert distances[0, 1] == distances[1, 2] == pytest.approx(1)


@pytest.mark.parametrize("of", EVERY, ids=str)
def test_features_of_many_positions_are_those_of_each(of: BaseDistribution) -> None:
    """Bit for bit, because suggestions depend on the last digits. Ties of rounding are included."""
    one = dimension(of)
    ties = [(i + 0.5) / n for n in (3, 4, 6, 9) for i in range(n)]
    positions = np.concatenate([np.random.default_rng(0).random(500), np.linspace(0, 1, 97), ties])
    if isinstance(of, CategoricalDistribution):
        values = [one.value(float(p)) for p in positions]
        wanted = np.eye(4)[[of.choices.index(v) for v in values]] / np.sqrt(2)
        assert one.among(("maml", 3), positions).tolist() == [v in ("maml", 3) for v in values]
    elif isinstance(of, FloatDistribution) and of.step is None:
        wanted = positions[:, None]
    else:
        wanted = np.array([[one.position(one.value(float(p)))] for p in positions])
    np.testing.assert_array_equal(one.features(positions), wanted)
    assert one.features(positions[:0]).shape == (0, one.width)


@pytest.mark.parametrize(
    "of", [IntDistribution(0, 0), IntDistribution(3, 3, log=True), FloatDistribution(0, 0, step=1)]
)
def test_a_single_value_has_one_feature(of: BaseDistribution) -> None:
    assert dimension(of).features(np.array([0.0, 0.3, 1.0])).tolist() == [[0.5]] * 3


def test_features_are_computed_without_a_loop_over_positions() -> None:
    decoded = []

    class Counted(dimensions.Numeric):
        def value(self, position: float) -> float | int:
            decoded.append(position)
            return super().value(position)

    Counted(IntDistribution(1, 7)).features(np.random.default_rng(0).random(10_000))
    assert len(decoded) == 7
