"""Numbers in groups: an episode is one group, and its support may precede its queries."""

import numpy as np
import pytest
import torch

from fewshot.conformance.tasks import PoolLaws, keys
from fewshot.errors.inputs import InputError
from fewshot.tasks.base import episode_keys
from fewshot.tasks.regression import RegressionTask, regression_pool

SIZES = (4, 12, 7, 30)


def task(name="pupils", first=0, *, order=None, sizes=SIZES):
    """Whose rows are mixed up, and whose numbers are 100 times the group plus noise."""
    groups = np.repeat(np.arange(len(sizes)), sizes)
    groups = groups[np.random.default_rng(0).permutation(len(groups))]
    rows = first + np.arange(len(groups))
    values = 100.0 * groups + np.sin(rows)
    times = None if order is None else order(rows).astype(float)
    return RegressionTask(name, rows, values, groups, times)


def pool_of(*tasks, shot=3, query=2):
    return regression_pool(tasks, torch.arange(200.0)[:, None], shot=shot, query=query)


def plain(name, n, first):
    rows = first + np.arange(n)
    return RegressionTask(name, rows, 1.0 * rows)


@pytest.mark.parametrize(
    "pool", [pool_of(task(), plain("line", 9, 100), task("late", 120, order=np.negative))]
)
class TestAPoolOfGroups(PoolLaws):
    pass


class TestGroups:
    def test_all_examples_of_an_episode_are_of_one_group(self):
        drawn = pool_of(task()).draw(keys(200), 2)
        values = torch.cat([drawn.support_y, drawn.query_y], -2)[..., 0]
        groups = (values / 100).round()
        assert (groups == groups[..., :1]).all()
        assert set(groups.flatten().tolist()) == {1, 2, 3}  # the first is too small

    def test_groups_are_drawn_by_their_size(self):
        drawn = pool_of(task()).draw(keys(4000), 1)
        groups = (drawn.support_y[:, 0, 0, 0, 0] / 100).round()
        for group, size in zip((1, 2, 3), SIZES[1:], strict=True):
            share = (groups == group).float().mean().item()
            assert share == pytest.approx(size / sum(SIZES[1:]), abs=0.03)

    def test_the_null_loss_is_the_variance_of_the_groups_that_are_drawn(self):
        own = task()
        kept = own.values[own.groups > 0]
        assert pool_of(own).null_losses.item() == pytest.approx(kept.var(), rel=1e-6)

    def test_a_task_without_large_groups_is_refused(self):
        with pytest.raises(InputError) as caught:
            pool_of(task(sizes=(4, 4)))
        (detail,) = caught.value.details
        assert "5 examples in one of its groups" in detail.rule
        assert detail.found == "2 groups, of which the largest has 4 examples"

    def test_rows_and_groups_of_a_task_are_those_of_its_episodes(self):
        pool = pool_of(plain("line", 9, 100), task())
        line, own = pool.rows
        assert line.tolist() == list(range(100, 109))
        assert len(own) == sum(SIZES[1:])
        assert pool.groups[1].unique().numel() == 3

    def test_groups_of_episodes_are_those_of_their_examples(self):
        pool = pool_of(task(), task("others", 60))
        drawn = pool.by_row().draw(keys(1)[0], 40)
        codes = pool.groups_of(episode_keys(keys(1)[0], 2, 40), torch.arange(2)[:, None])
        for t in range(2):
            of_row = dict(zip(pool.rows[t].tolist(), pool.groups[t].tolist(), strict=True))
            assert [of_row[row] for row in drawn.support_x[t, :, 0].tolist()] == codes[t].tolist()

    def test_shuffled_numbers_stay_in_their_group(self):
        shuffled = task().shuffled(0)
        assert ((shuffled.values / 100).round() == shuffled.groups).all()
        assert (shuffled.values != task().values).any()


class TestOrder:
    @pytest.mark.parametrize("order", [np.negative, lambda rows: rows // 7])
    def test_no_query_precedes_a_support_example(self, order):
        drawn = pool_of(task(order=order)).by_row().draw(keys(200), 2)
        support, query = (
            torch.from_numpy(order(part.numpy())) for part in (drawn.support_x, drawn.query_x)
        )
        assert (support.amax(-1) <= query.amin(-1)).all()

    def test_other_tasks_keep_their_random_order(self):
        drawn = pool_of(task(order=np.negative), plain("line", 9, 100)).by_row().draw(keys(50), 1)
        support, query = drawn.support_x[:, 1], drawn.query_x[:, 1]
        assert (support.amax(-1) > query.amin(-1)).any()
