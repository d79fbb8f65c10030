"""Families of functions: what they are, and that their draws hang on their keys alone."""

import math

import pytest
import torch
from scipy.stats import kstest
from torch.testing import assert_close

from fewshot.conformance.tasks import FamilyLaws, PoolLaws, keys
from fewshot.errors.inputs import InputError
from fewshot.tasks.base import episode_keys
from fewshot.tasks.functions import FAMILIES, function_pool, sample, variance


def drawn(name, n=2000, points=20):
    """x and y (n, points), float64, of n functions of a family."""
    x, y = sample(FAMILIES[name], keys(n), points)
    return x.double(), y.double()


def fitted(columns, y):
    """Least squares of y (n, points) on columns: coefficients (n, c), and the largest residual."""
    design = torch.stack(columns, -1)
    found = torch.linalg.lstsq(design, y.unsqueeze(-1)).solution
    return found.squeeze(-1), ((design @ found).squeeze(-1) - y).abs().max()


def pool_of(*names, shot=3, query=5):
    return function_pool(names, [FAMILIES[name] for name in names], shot=shot, query=query)


class TestFamilies:
    @pytest.mark.parametrize("name", FAMILIES)
    def test_x_is_uniform_on_its_interval(self, name):
        x, _ = drawn(name)
        assert kstest(x.flatten(), "uniform", args=(-5, 10)).pvalue > 1e-3

    @pytest.mark.parametrize(("name", "frequency"), [("sinusoid", 1), ("sin3x", 3)])
    def test_a_sinusoid_has_its_frequency_and_the_papers_ranges(self, name, frequency):
        x, y = drawn(name)
        # A sin(wx - b) = A cos(b) sin(wx) - A sin(b) cos(wx)
        parts, residual = fitted([(frequency * x).sin(), (frequency * x).cos()], y)
        assert residual < 1e-4
        amplitude, phase = parts.norm(dim=-1), torch.atan2(-parts[:, 1], parts[:, 0])
        assert kstest(amplitude, "uniform", args=(0.1, 4.9)).pvalue > 1e-3
        assert kstest(phase, "uniform", args=(0, math.pi)).pvalue > 1e-3

    def test_a_square_wave_is_a_sinusoids_sign(self):
        x, y = drawn("square", points=200)
        levels = y.abs()
        assert_close(levels, levels[:, :1].expand_as(levels))
        assert kstest(levels[:, 0], "uniform", args=(0.1, 4.9)).pvalue > 1e-3
        ahead = (x + math.pi).abs().argmin(-1, keepdim=True)  # half a period from x = 0
        near = x.abs().argmin(-1, keepdim=True)
        opposite = (y.gather(-1, ahead) * y.gather(-1, near) < 0).double().mean()
        assert opposite > 0.95, "but for the few points between which it jumps"

    @pytest.mark.parametrize(("name", "ranges"), [("line", (2, 1)), ("quadratic", (2, 1, 0.2))])
    def test_a_polynomial_has_its_degree_and_ranges(self, name, ranges):
        x, y = drawn(name)
        coefficients, residual = fitted([x**power for power in range(len(ranges))], y)
        assert residual < 1e-4
        for i, bound in enumerate(ranges):
            assert kstest(coefficients[:, i], "uniform", args=(-bound, 2 * bound)).pvalue > 1e-3

    def test_noise_is_normal_and_independent_at_every_point(self):
        x, y = drawn("noise")
        assert kstest(y.flatten(), "norm", args=(0, 3)).pvalue > 1e-3
        pairs = torch.stack([x.flatten()[1:], y.flatten()[1:], y.flatten()[:-1]])
        assert (torch.corrcoef(pairs) - torch.eye(3)).abs().max() < 0.02

    def test_their_variance_is_known(self):
        a = (5**3 - 0.1**3) / (3 * 4.9)  # E[A^2]
        mean = 2.55 * -math.sin(5) / 5 * 2 / math.pi  # E[A] E[sin(x)-part of the phase]
        expected = {
            "sinusoid": a / 2 - mean**2,
            "line": 25 / 9 + 4 / 3,
            "quadratic": 0.04 / 3 * 125 + 25 / 9 + 4 / 3,
            "noise": 9.0,
        }
        for name, value in expected.items():
            assert variance(FAMILIES[name]) == pytest.approx(value, rel=0.03)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
class TestEveryFamily(FamilyLaws):
    pass


@pytest.mark.parametrize("pool", [pool_of(*FAMILIES)])
class TestAPoolOfAllFamilies(PoolLaws):
    pass


class TestPool:
    def test_support_and_query_are_of_one_function(self):
        made = pool_of("sinusoid", shot=10, query=10).draw(keys(100), 2)
        x = torch.cat([made.support_x, made.query_x], -2).squeeze(-1).double().flatten(0, 2)
        y = torch.cat([made.support_y, made.query_y], -2).squeeze(-1).double().flatten(0, 2)
        assert fitted([x.sin(), x.cos()], y)[1] < 1e-4

    def test_an_episode_is_the_same_whatever_tasks_follow(self):
        alone, beside = (
            pool_of(*names).draw(keys(10), 2) for names in (["line"], ["line", "noise"])
        )
        assert all(torch.equal(a, b[:, :1]) for a, b in zip(alone, beside, strict=True))

    def test_keys_tasks_and_episodes_draw_differently(self):
        made = function_pool(["a", "b"], [FAMILIES["line"]] * 2, shot=3, query=5)
        x = made.draw(keys(10), 4).support_x
        assert x.flatten(0, 2).flatten(1).unique(dim=0).shape[0] == 80

    def test_a_family_that_never_varies_is_refused(self):
        constant = {"zero": lambda x, key: x * 0, "wild": lambda x, key: x / 0}
        with pytest.raises(InputError, match="nothing to learn") as caught:
            function_pool(
                [*constant, "line"], [*constant.values(), FAMILIES["line"]], shot=1, query=1
            )
        assert [input_error.path for input_error in caught.value.details] == [
            "tasks.zero",
            "tasks.wild",
        ]


def test_an_episode_of_a_chosen_family_is_the_one_that_is_drawn_of_it() -> None:
    pool = pool_of("line", "sinusoid", "noise")
    own, which = episode_keys(keys(4), 3, 2), torch.arange(3).repeat_interleave(2).expand(4, -1)
    chosen = pool.draw_of(own.flatten(1), which)
    for one, other in zip(pool.draw(keys(4), 2), chosen, strict=True):
        assert torch.equal(one.flatten(1, 2), other)
    mixed = pool.draw_of(keys(3), torch.tensor([2, 0, 2]))
    assert torch.equal(mixed.query_y[1], pool.draw_of(keys(3)[1:2], torch.tensor([0])).query_y[0])
