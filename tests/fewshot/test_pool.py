"""Episodes of pools: what they are made of, and that each is a function of its key alone."""

import math

import numpy as np
import pytest
import torch

from fewshot.conformance.tasks import PoolLaws, keys
from fewshot.episodes import with_inputs
from fewshot.errors.inputs import InputError
from fewshot.tasks.base import episode_keys
from fewshot.tasks.pool import Task, pool


def task(name, sizes, *, first=0, groups=None):
    """A task whose class i has sizes[i] examples, in rows from `first` on."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    of_class = np.zeros(len(sizes), dtype=np.int64) if groups is None else np.array(groups)
    return Task(name, first + np.arange(len(labels)), labels, of_class[labels])


def inputs(n):
    """An input that is its own row."""
    return torch.arange(n, dtype=torch.float32)[:, None]


def classes_of(task, x):
    """Labels (..., n) in `task` of the inputs x (..., n, 1)."""
    return torch.from_numpy(task.labels)[x[..., 0].long() - int(task.rows[0])]


FLAT = task("flat", [8, 5, 4, 9, 6, 7])
GROUPED = task("grouped", [5] * 9, first=50, groups=[0, 0, 0, 1, 1, 1, 1, 2, 2])
POOLS = {
    "one task": pool([FLAT], inputs(100), way=3, shot=2, query=3),
    "one example a class": pool([FLAT], inputs(100), way=2, shot=1, query=1),
    "two tasks, one in groups": pool([FLAT, GROUPED], inputs(100), way=3, shot=1, query=4),
}


@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
class TestEveryPool(PoolLaws):
    pass


class TestEpisodes:
    @pytest.fixture
    def only(self):
        return task("only", [8, 5, 4, 9, 6, 7])

    @pytest.fixture
    def drawn(self, only):
        """200 draws (200, ...) of one episode each of 3-way 2-shot problems with 3 queries."""
        made = pool([only], inputs(100), way=3, shot=2, query=3)
        return made.draw(keys(200), 1)

    def test_number_distinct_classes_from_zero(self, only, drawn):
        support, query = classes_of(only, drawn.support_x), classes_of(only, drawn.query_x)
        assert drawn.support_y.flatten(1).tolist() == [[0, 0, 1, 1, 2, 2]] * 200
        assert drawn.query_y.flatten(1).tolist() == [[0, 0, 0, 1, 1, 1, 2, 2, 2]] * 200
        firsts = support[..., ::2]
        assert torch.equal(support, firsts.repeat_interleave(2, -1))
        assert torch.equal(query, firsts.repeat_interleave(3, -1))
        assert all(row.unique().numel() == 3 for row in firsts.flatten(1))

    def test_take_every_class_that_has_enough_examples_and_no_other(self, only, drawn):
        assert classes_of(only, drawn.support_x).unique().tolist() == [0, 1, 3, 4, 5]

    def test_put_every_class_at_every_place(self, only, drawn):
        support = classes_of(only, drawn.support_x).flatten(1)
        assert all(support[:, place].unique().numel() == 5 for place in (0, 2, 4))

    def test_take_every_example_as_support_and_as_query(self, only, drawn):
        usable = {int(row) for row in only.rows if only.labels[row] != 2}
        assert set(drawn.support_x.flatten().long().tolist()) == usable
        assert set(drawn.query_x.flatten().long().tolist()) == usable


class TestGroups:
    def test_the_classes_of_an_episode_are_of_one_group(self):
        grouped = task("grouped", [5] * 9, groups=[0, 0, 0, 1, 1, 1, 1, 2, 2])
        drawn = pool([grouped], inputs(45), way=3, shot=1, query=2).draw(keys(200), 1)
        classes = classes_of(grouped, drawn.support_x).flatten(1)
        of_class = torch.tensor([0, 0, 0, 1, 1, 1, 1, 2, 2])
        used = of_class[classes]
        assert (used == used[:, :1]).all()
        assert used.unique().tolist() == [0, 1], "the third has too few classes"

    def test_the_same_label_in_another_group_is_another_class(self):
        labels, groups = np.tile(np.repeat([0, 1], 4), 2), np.repeat([0, 1], 8)
        one = Task("one", np.arange(16), labels, groups)
        drawn = pool([one], inputs(16), way=2, shot=2, query=2).draw(keys(100), 1)
        rows = torch.cat([drawn.support_x, drawn.query_x], -2).flatten(1).long()
        of_row = torch.from_numpy(groups)[rows]
        assert (of_row == of_row[:, :1]).all()
        assert of_row.unique().tolist() == [0, 1]


class TestUnlikeShapes:
    @pytest.fixture
    def only(self):
        """Five classes in one group, three in another: no episode of the latter has more."""
        return task("only", [9] * 8, groups=[0] * 5 + [1] * 3)

    @pytest.fixture
    def made(self, only):
        return pool([only], inputs(72), way=(2, 4), shot=(1, 3), query=(2, 4))

    @pytest.fixture
    def drawn(self, made):
        """600 episodes, (600, ...)."""
        return [part.flatten(0, 2) for part in made.draw(keys(600), 1)]

    @staticmethod
    def counts(labels):
        """Rows (n, 4) of each class."""
        return (labels[:, :, None] == torch.arange(4)).sum(1)

    def test_have_the_shapes_of_the_largest(self, drawn):
        assert [part.shape[1] for part in drawn] == [12, 12, 16, 16]

    def test_are_drawn_from_low_to_high_each_as_often(self, only, drawn):
        support_x, support_y, _, query_y = drawn
        shots, queries = self.counts(support_y), self.counts(query_y)
        for counts, low, high in ((shots, 1, 3), (queries, 2, 4)):
            found = counts[:, 0].bincount()[low:]
            assert len(found) == high - low + 1
            assert (found - 200).abs().max() < 60
            present = counts > 0
            assert torch.equal(counts, counts[:, :1] * present), "all classes have as many"
            assert torch.equal(present, shots > 0), "support and queries have the same classes"
        ways = (shots > 0).sum(1)
        in_second = classes_of(only, support_x)[:, 0] >= 5
        assert ways[in_second].unique().tolist() == [2, 3]
        assert ways[~in_second].unique().tolist() == [2, 3, 4]

    def test_the_classes_that_there_are_come_first(self, drawn):
        present = self.counts(drawn[1]) > 0
        assert torch.equal(present, present.long().cummin(1).values.bool())

    def test_the_rows_of_a_class_are_of_one_class_and_never_twice(self, only, drawn):
        support_x, support_y, query_x, query_y = drawn
        x, y = torch.cat([support_x, query_x], 1), torch.cat([support_y, query_y], 1)
        of_rows = classes_of(only, x)
        for rows, classes, labels in zip(x[..., 0], of_rows, y, strict=True):
            real = labels >= 0
            assert rows[real].unique().numel() == real.sum()
            pairs = {*zip(labels[real].tolist(), classes[real].tolist(), strict=True)}
            assert len(pairs) == len({c for _, c in pairs}) == labels.max() + 1

    def test_with_imbalance_the_shots_of_each_class_are_its_own(self, only):
        made = pool([only], inputs(72), way=3, shot=(1, 4), query=2, imbalance="random")
        _, support_y, _, query_y = (part.flatten(0, 2) for part in made.draw(keys(400), 1))
        shots = self.counts(support_y)[:, :3]
        assert (shots.flatten().bincount()[1:] - 300).abs().max() < 80
        assert (shots[:, 0] == shots[:, 1]).double().mean() == pytest.approx(1 / 4, abs=0.08)
        assert self.counts(query_y)[:, :3].eq(2).all(), "queries stay balanced"

    def test_an_episode_is_the_same_alone_as_among_others(self, only, made):
        other = task("other", [9] * 3, first=72)
        beside = pool([only, other], inputs(99), way=(2, 4), shot=(1, 3), query=(2, 4))
        alone, among = made.draw(keys(20)[7], 2), beside.draw(keys(20), 5)
        assert all(torch.equal(a[0], b[7, 0, :2]) for a, b in zip(alone, among, strict=True))

    def test_the_null_loss_of_a_task_is_the_mean_over_its_episodes(self, made, drawn):
        ways = (self.counts(drawn[1]) > 0).sum(1)
        # Groups are drawn as often: one has 2 to 4 classes an episode, the other 2 or 3.
        logs = [math.log(n) for n in (2, 3, 4)]
        assert made.null_losses.item() == pytest.approx(sum(logs) / 6 + sum(logs[:2]) / 4)
        assert ways.double().log().mean().item() == pytest.approx(made.null_losses.item(), abs=0.04)

    def test_a_task_needs_the_fewest_classes_of_the_most_examples(self, only):
        pool([only], inputs(72), way=(5, 20), shot=(1, 5), query=4)
        with pytest.raises(InputError, match=r"5 classes .* shot \+ query = 10"):
            pool([only], inputs(72), way=(5, 20), shot=(1, 6), query=4)


class TestIndependence:
    @pytest.fixture
    def first(self):
        return task("first", [6, 7, 5, 6])

    def test_an_episode_is_the_same_whatever_tasks_follow(self, first):
        other = task("other", [9] * 8, first=24, groups=[0, 0, 0, 0, 1, 1, 1, 1])
        alone = pool([first], inputs(100), way=2, shot=1, query=2).draw(keys(50), 2)
        beside = pool([first, other], inputs(100), way=2, shot=1, query=2).draw(keys(50), 2)
        assert all(torch.equal(a, b[:, :1]) for a, b in zip(alone, beside, strict=True))

    def test_tasks_and_episodes_draw_differently(self, first):
        twin = Task("twin", first.rows, first.labels, first.groups)
        drawn = pool([first, twin], inputs(50), way=2, shot=2, query=2).draw(keys(100), 2)
        episodes = drawn.support_x[..., 0]
        assert (episodes[:, 0] != episodes[:, 1]).any(-1).double().mean() > 0.9
        assert (episodes[:, :, 0] != episodes[:, :, 1]).any(-1).double().mean() > 0.9

    def test_each_task_draws_its_own_rows(self, first):
        other = task("other", [9] * 3, first=24)
        drawn = pool([first, other], inputs(100), way=2, shot=1, query=2).draw(keys(50), 2)
        assert drawn.support_x[:, 0].max() < 24
        assert drawn.support_x[:, 1].min() >= 24


class TestShuffled:
    @pytest.fixture
    def grouped(self):
        return task("grouped", [20, 30, 25, 40], groups=[0, 0, 1, 1])

    def test_keeps_all_but_the_labels(self, grouped):
        shuffled = grouped.shuffled(0)
        assert shuffled.name == grouped.name
        assert np.array_equal(shuffled.rows, grouped.rows)
        assert np.array_equal(shuffled.groups, grouped.groups)

    def test_keeps_the_counts_within_each_group(self, grouped):
        shuffled = grouped.shuffled(0)
        for group in (0, 1):
            members = grouped.groups == group
            before = np.bincount(grouped.labels[members], minlength=4)
            after = np.bincount(shuffled.labels[members], minlength=4)
            assert np.array_equal(before, after)

    def test_leaves_labels_no_better_than_chance(self, grouped):
        kept = (grouped.shuffled(0).labels == grouped.labels).mean()
        assert 0.3 < kept < 0.7

    def test_depends_only_on_its_seed(self, grouped):
        assert np.array_equal(grouped.shuffled(3).labels, grouped.shuffled(3).labels)
        assert not np.array_equal(grouped.shuffled(3).labels, grouped.shuffled(4).labels)

    def test_leaves_the_original_as_it_was(self, grouped):
        before = grouped.labels.copy()
        grouped.shuffled(0)
        assert np.array_equal(grouped.labels, before)


class TestNoisy:
    @pytest.fixture
    def grouped(self):
        return task("grouped", [200, 300, 250, 450], groups=[0, 0, 1, 1])

    @pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
    def test_a_share_of_the_labels_is_any_of_the_groups(self, grouped, share):
        noisy = grouped.noisy(share, 0)
        for group in (0, 1):
            members = grouped.groups == group
            before, after = grouped.labels[members], noisy.labels[members]
            assert set(after) == set(before)
            # Two classes: half of what is drawn is what it was.
            assert (after != before).mean() == pytest.approx(share / 2, abs=0.05)

    def test_with_all_labels_drawn_the_classes_are_alike(self, grouped):
        noisy = grouped.noisy(1.0, 0)
        assert np.bincount(noisy.labels) == pytest.approx([250, 250, 350, 350], abs=50)

    def test_keeps_all_but_the_labels(self, grouped):
        noisy = grouped.noisy(0.5, 0)
        assert np.array_equal(noisy.rows, grouped.rows)
        assert np.array_equal(noisy.groups, grouped.groups)
        assert grouped.labels.tolist() == sorted(grouped.labels), "the original is as it was"

    def test_depends_only_on_its_seed(self, grouped):
        assert np.array_equal(grouped.noisy(0.5, 3).labels, grouped.noisy(0.5, 3).labels)
        assert not np.array_equal(grouped.noisy(0.5, 3).labels, grouped.noisy(0.5, 4).labels)


class TestFaults:
    def test_name_the_task_the_rule_and_what_was_found(self):
        with pytest.raises(InputError) as caught:
            pool([task("tiny", [5, 3, 2])], inputs(10), way=2, shot=1, query=3)
        (input_error,) = caught.value.details
        assert input_error.path == "tasks.tiny"
        assert "2 classes" in input_error.rule
        assert "shot + query = 4 examples" in input_error.rule
        assert input_error.found == "1 such classes; classes have 2 to 5 examples"
        assert input_error.remedy

    def test_are_collected_over_all_tasks(self):
        tasks = [task("few", [5]), task("fine", [5, 5]), task("small", [3, 3])]
        with pytest.raises(InputError) as caught:
            pool(tasks, inputs(10), way=2, shot=2, query=2)
        assert [input_error.path for input_error in caught.value.details] == [
            "tasks.few",
            "tasks.small",
        ]

    def test_classes_of_different_groups_do_not_add_up(self):
        with pytest.raises(InputError, match="in one group"):
            pool([task("split", [5, 5], groups=[0, 1])], inputs(10), way=2, shot=2, query=2)

    def test_just_enough_is_enough(self):
        made = pool([task("exact", [4, 4])], inputs(8), way=2, shot=2, query=2)
        drawn = made.draw(keys(1), 1)
        rows = torch.cat([drawn.support_x, drawn.query_x], -2).flatten()
        assert sorted(rows.tolist()) == list(range(8))


class TestChosenTasks:
    @pytest.fixture
    def made(self):
        tasks = [task("a", [8, 5, 4]), task("b", [6, 7, 9, 6], first=17)]
        return pool(tasks, inputs(50), way=2, shot=2, query=1)

    def test_an_episode_of_a_chosen_task_is_the_one_that_is_drawn_of_it(self, made):
        own = episode_keys(keys(5), 2, 3)
        which = torch.tensor([0, 0, 0, 1, 1, 1]).expand(5, -1)
        chosen = made.draw_of(own.flatten(1), which)
        for one, other in zip(made.draw(keys(5), 3), chosen, strict=True):
            assert torch.equal(one.flatten(1, 2), other)

    def test_each_comes_from_the_task_that_was_chosen_for_it(self, made):
        which = torch.tensor([1, 0, 0, 1, 0])
        x = made.draw_of(keys(5), which).support_x
        assert torch.equal((x >= 17).all(-1).all(-1), which == 1)

    def test_by_row_the_same_examples_are_named_by_their_places(self, made):
        shown, rows = made.draw(keys(4), 2), made.by_row().draw(keys(4), 2)
        found = with_inputs(rows, made.inputs)
        assert all(torch.equal(*pair) for pair in zip(shown, found, strict=True))
