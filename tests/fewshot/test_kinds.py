"""Kinds of what is predicted: their losses, and their scores from knowing nothing to perfect."""

import math

import pytest
import torch
from torch.testing import assert_close

from fewshot.kinds import CLASSIFICATION, REGRESSION
from tests.rounding import assert_same, rounding


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


def test_the_loss_of_a_class_is_its_surprise(rng):
    logits, labels = torch.randn(2, 3, 4, 5, generator=rng), torch.randint(5, (2, 3, 4))
    expected = -logits.log_softmax(-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    assert_close(CLASSIFICATION.losses(logits, labels), expected)


def test_the_loss_of_a_number_is_its_squared_error():
    predicted, values = torch.tensor([[[1.0], [2.0]]]), torch.tensor([[[0.0], [5.0]]])
    assert_close(REGRESSION.losses(predicted, values), torch.tensor([[1.0, 9.0]]))


def test_classes_are_scored_by_accuracy_above_chance():
    labels = torch.tensor([[0, 1, 2], [0, 1, 2]])
    logits = torch.eye(3)[torch.tensor([[0, 1, 2], [0, 0, 0]])]
    scores = CLASSIFICATION.scores(logits, labels, torch.ones(2))
    assert_close(scores["accuracy"], torch.tensor([1, 1 / 3], dtype=torch.float64))
    assert_close(scores["skill"], torch.tensor([1.0, 0.0], dtype=torch.float64))


def test_answers_that_are_no_numbers_are_no_score(rng):
    labels = torch.tensor([[0, 1, 2, -1]] * 3)
    logits = torch.randn(3, 4, 3, generator=rng)
    logits[0, 1, 2] = torch.nan
    logits[1, 3] = torch.nan  # of padding
    logits[2, 0, 1] = -torch.inf  # what is impossible
    assert CLASSIFICATION.scores(logits, labels, torch.ones(3))["skill"].isnan().tolist() == [
        True,
        False,
        False,
    ]
    predicted = torch.tensor([[[1.0]], [[torch.nan]]])
    scores = REGRESSION.scores(predicted, torch.zeros(2, 1, 1), torch.ones(2))
    assert scores["skill"].isnan().tolist() == [False, True]


def test_numbers_are_scored_by_the_variance_that_is_explained(rng):
    values = torch.randn(2, 3, 1000, 1, generator=rng).double()
    values *= torch.tensor([1.0, 2, 3])[:, None, None]
    variances = values[0].var(1, correction=0).squeeze(-1)
    means = values[:1].mean(2, keepdim=True).expand_as(values[:1])
    knows_nothing = REGRESSION.scores(means, values[0], variances)
    assert_same(knows_nothing["mse"][0], variances, operations=1000)
    nothing = torch.zeros(1, 3, dtype=torch.float64)
    assert_same(knows_nothing["skill"], nothing, operations=1000, size=1.0)
    perfect = REGRESSION.scores(values, values, variances)
    assert perfect["skill"].eq(1).all()
    assert perfect["mse"].eq(0).all()


class TestPadding:
    """Problems of 2 and of 4 classes, in the shape of 4 with 3 queries of each."""

    @pytest.fixture
    def problems(self, rng):
        logits = torch.randn(2, 12, 4, generator=rng, dtype=torch.float64)
        labels = torch.arange(4).repeat_interleave(3).repeat(2, 1)
        labels[0, 6:] = -1
        labels[0, 2] = -1
        support = torch.tensor([[0, 1, -1, -1], [0, 1, 2, 3]])
        return CLASSIFICATION.mask_absent_classes(logits, support), labels

    @pytest.fixture
    def small(self, problems):
        """The first as it is without padding."""
        logits, labels = problems
        real = labels[0] >= 0
        return logits[:1, real, :2], labels[:1, real]

    def test_the_mean_loss_is_that_of_the_real_queries(self, problems, small):
        losses = CLASSIFICATION.losses(*problems)
        assert losses[0, [2, *range(6, 12)]].eq(0).all()
        # The factor for the padding is a quotient of counts, in float32.
        within = rounding(1, torch.float32)
        expected = CLASSIFICATION.losses(*small).mean(-1)
        assert_close(losses.mean(-1)[:1], expected, rtol=within, atol=0)
        assert_close(losses.mean(-1)[1:], CLASSIFICATION.losses(*(p[1:] for p in problems)).mean(1))

    def test_an_absent_class_takes_no_probability(self, problems, small):
        chances = problems[0].softmax(-1)[0]
        assert chances[:, 2:].eq(0).all()
        assert_close(chances[problems[1][0] >= 0, :2], small[0][0].softmax(-1))

    def test_scores_are_those_of_the_real_queries_and_classes(self, problems, small):
        scores = CLASSIFICATION.scores(*problems, torch.ones(2))
        for name, value in CLASSIFICATION.scores(*small, torch.ones(1)).items():
            assert_close(scores[name][:1], value)

    def test_the_null_loss_is_that_of_the_classes_that_there_are(self, problems):
        found = CLASSIFICATION.null_losses(problems[1], torch.zeros(2, dtype=torch.float64))
        assert_close(found, torch.tensor([2.0, 4.0], dtype=torch.float64).log())


def test_the_null_loss_of_numbers_is_their_tasks():
    of_tasks = torch.tensor([2.0, 3.0])
    assert torch.equal(REGRESSION.null_losses(torch.zeros(2, 4, 1), of_tasks), of_tasks)


@pytest.mark.parametrize("kind", [CLASSIFICATION, REGRESSION], ids=lambda kind: kind.name)
def test_what_is_reported_is_scored(kind):
    answers = (
        torch.zeros(2, 4, dtype=torch.long) if kind is CLASSIFICATION else torch.zeros(2, 4, 3)
    )
    scores = kind.scores(torch.randn(2, 4, 3), answers, torch.full((2,), math.log(3)))
    assert {"skill", *kind.reported} == scores.keys()
    assert all(value.shape == (2,) for value in scores.values())
