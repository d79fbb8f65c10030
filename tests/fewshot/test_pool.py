"""Episodes of pools: what they are made of, and that each is a function of its key alone."""

import numpy as np
import pytest
import torch

from fewshot.episodes import looked_up
from fewshot.faults import InputError
from fewshot.randomness import fold
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


def keys(n, seed=0):
    return fold(torch.tensor(seed), torch.arange(n))


def classes_of(task, x):
    """Labels (..., n) in `task` of the inputs x (..., n, 1)."""
    return torch.from_numpy(task.labels)[x[..., 0].long() - int(task.rows[0])]


class TestEpisodes:
    @pytest.fixture
    def only(self):
        return task("only", [8, 5, 4, 9, 6, 7])

    @pytest.fixture
    def drawn(self, only):
        """200 draws (200, ...) of one episode each of 3-way 2-shot problems with 3 queries."""
        made = pool([only], inputs(100), way=3, shot=2, query=3)
        return made.draw(keys(200), 1)

    def test_have_the_promised_shapes(self, drawn):
        assert drawn.support_x.shape == (200, 1, 1, 6, 1)
        assert drawn.support_y.shape == (200, 1, 1, 6)
        assert drawn.query_x.shape == (200, 1, 1, 9, 1)
        assert drawn.query_y.shape == (200, 1, 1, 9)

    def test_share_no_example_between_support_and_query(self, drawn):
        rows = torch.cat([drawn.support_x, drawn.query_x], -2).flatten(1)
        assert all(row.unique().numel() == 15 for row in rows)

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

    def test_of_different_keys_differ(self, drawn):
        assert drawn.support_x.flatten(1).unique(dim=0).shape[0] > 190


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


class TestIndependence:
    @pytest.fixture
    def first(self):
        return task("first", [6, 7, 5, 6])

    @staticmethod
    def same(a, b):
        return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))

    def test_an_episode_is_the_same_alone_as_among_other_keys(self, first):
        made = pool([first], inputs(50), way=2, shot=1, query=2)
        together = made.draw(keys(10), 3)
        for i, key in enumerate(keys(10)):
            assert self.same(made.draw(key, 3), [part[i] for part in together])

    def test_an_episode_is_the_same_however_many_follow(self, first):
        made = pool([first], inputs(50), way=2, shot=1, query=2)
        few, many = made.draw(keys(10), 2), made.draw(keys(10), 5)
        assert self.same(few, [part[:, :, :2] for part in many])

    def test_an_episode_is_the_same_whatever_tasks_follow(self, first):
        other = task("other", [9] * 8, first=24, groups=[0, 0, 0, 0, 1, 1, 1, 1])
        alone = pool([first], inputs(100), way=2, shot=1, query=2).draw(keys(50), 2)
        beside = pool([first, other], inputs(100), way=2, shot=1, query=2).draw(keys(50), 2)
        assert self.same(alone, [part[:, :1] for part in beside])

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

    def test_hangs_on_its_seed_alone(self, grouped):
        assert np.array_equal(grouped.shuffled(3).labels, grouped.shuffled(3).labels)
        assert not np.array_equal(grouped.shuffled(3).labels, grouped.shuffled(4).labels)

    def test_leaves_the_original_as_it_was(self, grouped):
        before = grouped.labels.copy()
        grouped.shuffled(0)
        assert np.array_equal(grouped.labels, before)


class TestFaults:
    def test_name_the_task_the_rule_and_what_was_found(self):
        with pytest.raises(InputError) as caught:
            pool([task("tiny", [5, 3, 2])], inputs(10), way=2, shot=1, query=3)
        (fault,) = caught.value.faults
        assert fault.path == "tasks.tiny"
        assert "2 classes" in fault.rule
        assert "shot + query = 4 examples" in fault.rule
        assert fault.found == "1 such classes; classes have 2 to 5 examples"
        assert fault.remedy

    def test_are_collected_over_all_tasks(self):
        tasks = [task("few", [5]), task("fine", [5, 5]), task("small", [3, 3])]
        with pytest.raises(InputError) as caught:
            pool(tasks, inputs(10), way=2, shot=2, query=2)
        assert [fault.path for fault in caught.value.faults] == ["tasks.few", "tasks.small"]

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
        found = looked_up(rows, made.inputs)
        assert all(torch.equal(*pair) for pair in zip(shown, found, strict=True))
