"""Counter-based randomness: even, independent, and the same alone as among others."""

import pytest
import torch
from scipy import stats

from fewshot.randomness import distinct, fold, integers, proportional, uniform


def keys(n, seed=0):
    return fold(torch.tensor(seed), torch.arange(n))


def correlation(a, b):
    return torch.corrcoef(torch.stack([a.double(), b.double()]))[0, 1].item()


class TestFold:
    def test_is_a_pure_function(self):
        assert torch.equal(keys(100, seed=3), keys(100, seed=3))

    def test_gives_the_same_key_alone_as_in_a_batch(self):
        together = fold(torch.arange(5)[:, None], torch.arange(7))
        alone = [[fold(torch.tensor(k), c).item() for c in range(7)] for k in range(5)]
        assert together.tolist() == alone

    def test_takes_plain_numbers_as_counters(self):
        assert fold(torch.tensor(1), 5) == fold(torch.tensor(1), torch.tensor(5))

    def test_has_no_collisions_among_small_keys_and_counters(self):
        made = fold(torch.arange(500)[:, None], torch.arange(500))
        assert made.unique().numel() == made.numel()

    def test_has_no_fixed_point_at_zero(self):
        assert fold(torch.tensor(0), 0) != 0

    def test_tells_the_key_from_the_counter(self):
        assert fold(torch.tensor(1), 2) != fold(torch.tensor(2), 1)

    def test_tells_orders_of_counters_apart(self):
        key = torch.tensor(0)
        assert fold(fold(key, 1), 2) != fold(fold(key, 2), 1)

    @pytest.mark.parametrize("bit", range(0, 32, 5))
    def test_a_flipped_bit_of_the_key_flips_half_of_the_bits(self, bit):
        key = torch.arange(2000)
        changed = fold(key, 0) ^ fold(key ^ (1 << bit), 0)
        places = torch.arange(64)
        share = ((changed[:, None] >> places) & 1).double().mean()
        assert share.item() == pytest.approx(0.5, abs=0.01)


class TestUniform:
    def test_is_even(self):
        draws = uniform(keys(100), 200).flatten().double()
        assert stats.kstest(draws.numpy(), "uniform").pvalue > 0.01

    def test_is_in_the_half_open_unit_interval(self):
        draws = uniform(keys(1000), 1000)
        assert draws.dtype == torch.float32
        assert draws.min() >= 0
        assert draws.max() < 1
        assert draws.max() > 0.99999

    def test_neighbouring_counters_are_independent(self):
        draws = uniform(torch.tensor(0), 50_000)
        for lag in (1, 2, 3, 64):
            assert abs(correlation(draws[:-lag], draws[lag:])) < 0.02

    def test_neighbouring_keys_are_independent(self):
        draws = uniform(torch.arange(20_000), 2)
        assert abs(correlation(draws[:-1, 0], draws[1:, 0])) < 0.03
        assert abs(correlation(draws[:, 0], draws[:, 1])) < 0.03

    def test_pairs_of_neighbours_fill_the_square_evenly(self):
        draws = uniform(torch.arange(20_000), 2)
        cells = (draws * 8).long() @ torch.tensor([8, 1])
        counts = cells.bincount(minlength=64)
        assert stats.chisquare(counts.numpy()).pvalue > 0.01

    def test_draws_the_same_alone_as_in_a_batch(self):
        together = uniform(keys(6).view(2, 3), 4)
        alone = torch.stack([uniform(key, 4) for key in keys(6)]).view(2, 3, 4)
        assert torch.equal(together, alone)

    def test_a_longer_draw_begins_with_the_shorter_one(self):
        assert torch.equal(uniform(keys(3), 10)[:, :4], uniform(keys(3), 4))


class TestIntegers:
    def test_are_even(self):
        counts = integers(keys(100), 200, 7).flatten().bincount(minlength=7)
        assert len(counts) == 7
        assert stats.chisquare(counts.numpy()).pvalue > 0.01

    def test_of_one_value_are_zero(self):
        assert not integers(keys(100), 10, 1).any()


class TestDistinct:
    def test_has_no_repeats(self):
        drawn = distinct(keys(500), torch.tensor(9), 6)
        assert drawn.shape == (500, 6)
        assert all(len(set(row)) == 6 for row in drawn.tolist())

    def test_stays_below_each_count(self):
        count = integers(keys(300, seed=1), 1, 20)[:, 0] + 3
        drawn = distinct(keys(300), count, 3)
        assert drawn.min() == 0
        assert (drawn < count[:, None]).all()

    def test_of_as_many_as_there_are_takes_each(self):
        drawn = distinct(keys(50), torch.tensor(4), 4)
        assert drawn.sort(-1).values.tolist() == [[0, 1, 2, 3]] * 50

    def test_of_more_than_there_are_takes_each_first_and_then_none(self):
        drawn = distinct(fold(torch.tensor(3), torch.arange(500)), torch.tensor(3), 5)
        assert (drawn[:, 3:] < 0).all()
        assert (drawn[:, :3].sort(-1).values == torch.arange(3)).all()
        assert drawn[:, 0].bincount().min() > 120, "in any order"

    def test_takes_each_index_equally_often_at_each_place(self):
        drawn = distinct(keys(6000), torch.tensor(5), 3)
        for place in range(3):
            counts = drawn[:, place].bincount(minlength=5)
            assert stats.chisquare(counts.numpy()).pvalue > 0.01

    def test_takes_each_arrangement_equally_often(self):
        drawn = distinct(keys(12_000), torch.tensor(4), 3)
        counts = (drawn @ torch.tensor([16, 4, 1])).bincount(minlength=64)
        assert (counts > 0).sum() == 24
        assert stats.chisquare(counts[counts > 0].numpy()).pvalue > 0.01

    def test_draws_the_same_alone_as_in_a_batch(self):
        count = torch.arange(20) + 4
        each = zip(keys(20), count, strict=True)
        alone = torch.stack([distinct(key, n, 4) for key, n in each])
        assert torch.equal(distinct(keys(20), count, 4), alone)

    def test_of_one_is_a_plain_draw(self):
        counts = distinct(keys(6000), torch.tensor(7), 1)[:, 0].bincount(minlength=7)
        assert stats.chisquare(counts.numpy()).pvalue > 0.01


class TestProportional:
    SHARES = torch.tensor([0.07, 0.0, 0.5, 0.18, 0.25, 0.0])

    def counts(self, shares, n, draws=4000):
        drawn = proportional(keys(draws), shares.expand(draws, -1), n)
        return torch.nn.functional.one_hot(drawn, len(shares)).sum(1).double()

    @pytest.mark.parametrize("n", [1, 3, 10, 64])
    def test_draws_each_category_by_its_share_on_average(self, n):
        counts = self.counts(self.SHARES, n)
        error = counts.std(0) / len(counts) ** 0.5
        assert ((counts.mean(0) - n * self.SHARES).abs() <= 4 * error + 1e-6).all()

    @pytest.mark.parametrize("n", [1, 3, 10, 64])
    def test_is_never_off_by_a_whole_draw(self, n):
        assert ((self.counts(self.SHARES, n) - n * self.SHARES).abs() < 1 + 1e-6).all()

    def test_never_draws_what_has_no_share(self):
        assert (self.counts(self.SHARES, 64)[:, [1, 5]] == 0).all()

    def test_draws_equal_shares_equally(self):
        assert (self.counts(torch.full((5,), 0.2), 15) == 3).all()

    def test_does_not_mind_the_unit_of_the_shares(self):
        drawn = [proportional(keys(50), s * self.SHARES.expand(50, -1), 8) for s in (1, 8)]
        assert torch.equal(*drawn)

    def test_is_the_same_alone_as_among_others(self):
        shares = torch.stack([self.SHARES, self.SHARES.flip(0)])
        together = proportional(keys(2), shares, 9)
        alone = [proportional(keys(2)[i], shares[i], 9) for i in range(2)]
        assert torch.equal(together, torch.stack(alone))
