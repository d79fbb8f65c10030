"""Scores, against what the words mean."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fewshot.metrics import (
    Estimate,
    accuracy,
    by_group,
    error_over_tasks,
    estimate,
    macro_f1,
    mean_of,
    skill,
)


def scored(labels, predictions, n_classes):
    """Logits that give `predictions`, with `labels`."""
    return torch.nn.functional.one_hot(torch.tensor(predictions), n_classes).float() * 3 - 1, (
        torch.tensor(labels)
    )


def f1_by_hand(labels, predictions, n_classes):
    scores = []
    for c in range(n_classes):
        pairs = list(zip(labels, predictions, strict=True))
        hits = sum(y == c and p == c for y, p in pairs)
        found = sum(p == c for _, p in pairs)
        there = sum(y == c for y, _ in pairs)
        precision, recall = hits / found if found else 0, hits / there if there else 0
        both = precision + recall
        scores.append(2 * precision * recall / both if both else 0)
    return sum(scores) / n_classes


codes = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30)


class TestClassification:
    @given(codes)
    def test_accuracy_is_the_share_of_right_answers(self, pairs):
        labels, predictions = zip(*pairs, strict=True)
        expected = np.mean(np.array(labels) == np.array(predictions))
        assert accuracy(*scored(labels, predictions, 4)).item() == pytest.approx(expected)

    @given(codes)
    def test_macro_f1_is_the_mean_harmonic_mean_of_precision_and_recall(self, pairs):
        labels, predictions = zip(*pairs, strict=True)
        expected = f1_by_hand(labels, predictions, 4)
        assert macro_f1(*scored(labels, predictions, 4)).item() == pytest.approx(expected)

    def test_macro_f1_of_a_known_case(self):
        # Class 0: precision 2/3, recall 1; class 1: 1, 1/2; class 2 is absent.
        logits, labels = scored([0, 0, 1, 1], [0, 0, 0, 1], 3)
        assert macro_f1(logits, labels).item() == pytest.approx((0.8 + 2 / 3 + 0) / 3)

    def test_stacks_are_scored_one_by_one(self):
        logits = torch.randn(3, 2, 8, 4, generator=torch.Generator().manual_seed(0))
        labels = torch.randint(4, (3, 2, 8), generator=torch.Generator().manual_seed(1))
        for metric in (accuracy, macro_f1):
            assert metric(logits, labels).shape == (3, 2)
            assert metric(logits, labels)[2, 1] == metric(logits[2, 1], labels[2, 1])

    def test_labels_are_shared_between_lanes(self):
        logits = torch.randn(3, 8, 4, generator=torch.Generator().manual_seed(0))
        labels = torch.arange(8) % 4
        for metric in (accuracy, macro_f1):
            expected = torch.stack([metric(lane, labels) for lane in logits])
            torch.testing.assert_close(metric(logits, labels), expected)

    def test_padded_queries_do_not_count(self):
        logits = torch.randn(3, 8, 4, generator=torch.Generator().manual_seed(0))
        labels = torch.randint(4, (3, 8), generator=torch.Generator().manual_seed(1))
        padded = torch.cat([logits[:, :5], torch.ones(3, 2, 4), logits[:, 5:]], 1)
        with_none = torch.cat([labels[:, :5], torch.full((3, 2), -1), labels[:, 5:]], 1)
        for metric in (accuracy, macro_f1):
            torch.testing.assert_close(metric(padded, with_none), metric(logits, labels))

    def test_macro_f1_is_the_mean_over_the_classes_that_there_are(self):
        logits, labels = scored([0, 0, 1, 1], [0, 0, 0, 1], 5)
        assert macro_f1(logits, labels, 2).item() == pytest.approx((0.8 + 2 / 3) / 2)

    @pytest.mark.parametrize("way", [2, 5, 20])
    def test_skill_is_zero_at_chance_and_one_when_perfect(self, way):
        assert skill(torch.tensor(1 / way), way).item() == pytest.approx(0, abs=1e-6)
        assert skill(torch.tensor(1.0), way).item() == pytest.approx(1)
        assert skill(torch.tensor(0.0), way).item() == pytest.approx(-1 / (way - 1))


class TestEstimate:
    def test_is_the_mean_and_its_standard_error(self):
        values = np.array([0.2, 0.4, 0.9, 0.1, 0.6])
        made = estimate(torch.tensor(values))
        assert made.mean == pytest.approx(values.mean())
        assert made.standard_error == pytest.approx(values.std(ddof=1) / math.sqrt(5))
        assert made.n == 5

    def test_of_one_value_has_no_standard_error(self):
        made = estimate(torch.tensor([0.3]))
        assert made.mean == pytest.approx(0.3)
        assert math.isnan(made.standard_error)

    def test_its_interval_holds_the_truth_19_times_in_20(self):
        draws = torch.randn(2000, 50, generator=torch.Generator().manual_seed(0))
        bounds = [estimate(row).interval() for row in draws]
        assert np.mean([low < 0 < high for low, high in bounds]) == pytest.approx(0.95, abs=0.02)

    def test_mean_of_has_the_error_of_an_unweighted_mean(self):
        made = mean_of([Estimate(0.2, 0.03, 10), Estimate(0.6, 0.04, 1000)])
        assert made.mean == pytest.approx(0.4)
        assert made.standard_error == pytest.approx(0.025)
        assert made.n == 1010

    def test_the_error_over_tasks_is_that_of_their_means(self):
        means = np.array([0.2, 0.5, 0.9])
        found = error_over_tasks([Estimate(mean, 0.01, 10) for mean in means])
        assert found == pytest.approx(means.std(ddof=1) / math.sqrt(3))
        assert math.isnan(error_over_tasks([Estimate(0.2, 0.01, 10)]))

    def test_the_error_over_tasks_is_right_whatever_the_episodes_add(self):
        """Means of few noisy episodes of tasks that differ: what is found is how they scatter."""
        rng = torch.Generator().manual_seed(0)
        tasks = torch.randn(2000, 8, 1, generator=rng)
        episodes = tasks + 2 * torch.randn(2000, 8, 5, generator=rng)
        rows = [[estimate(task) for task in row] for row in episodes]
        found = np.mean([error_over_tasks(row) ** 2 for row in rows])
        assert found == pytest.approx(np.var([mean_of(row).mean for row in rows]), rel=0.1)

    def test_mean_of_one_is_that_one(self):
        one = Estimate(0.2, 0.03, 10)
        assert mean_of([one]) == pytest.approx(one)

    def test_mean_of_nan_is_nan(self):
        made = mean_of([Estimate(0.2, 0.03, 10), Estimate(math.nan, math.nan, 1)])
        assert math.isnan(made.mean)


def test_numbers_of_groups_have_the_mean_and_equal_groups_their_own_means():
    values, groups = torch.tensor([[1.0, 2, 6, 3], [0, 0, 1, 1]]), torch.tensor([7, 2, 7, 2])
    assert by_group(values, groups).tolist() == [[2.5, 3.5], [0.5, 0.5]]
    uneven = torch.tensor([0, 1, 1, 1])
    assert by_group(values, uneven).mean(-1).tolist() == pytest.approx([3.0, 0.5])


def test_the_error_over_groups_is_that_of_the_mean_over_new_groups():
    rng = torch.Generator().manual_seed(0)
    groups = torch.arange(40).repeat_interleave(torch.randint(2, 30, (40,), generator=rng))
    effects = torch.randn(500, 40, generator=rng)
    values = effects[:, groups] + 0.5 * torch.randn(500, len(groups), generator=rng)
    true = values.mean(1).std().item()
    of_groups, of_values = (
        sum(estimate(row).standard_error for row in rows) / 500
        for rows in (by_group(values, groups), values)
    )
    assert of_groups == pytest.approx(true, rel=0.1)
    assert of_values < 0.4 * true
