"""Kinds of what is predicted: their losses, and their scores from knowing nothing to perfect."""

import math

import pytest
import torch
from torch.testing import assert_close

from fewshot.kinds import CLASSIFICATION, REGRESSION


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


def test_numbers_are_scored_by_the_variance_that_is_explained(rng):
    values = torch.randn(2, 3, 1000, 1, generator=rng) * torch.tensor([1.0, 2, 3])[:, None, None]
    variances = values[0].var(1, correction=0).squeeze(-1)
    means = values[:1].mean(2, keepdim=True).expand_as(values[:1])
    knows_nothing = REGRESSION.scores(means, values[0], variances)
    assert_close(knows_nothing["skill"], torch.zeros(1, 3, dtype=torch.float64), atol=1e-6, rtol=0)
    assert_close(knows_nothing["mse"][0].float(), variances)
    perfect = REGRESSION.scores(values, values, variances)
    assert perfect["skill"].eq(1).all()
    assert perfect["mse"].eq(0).all()


@pytest.mark.parametrize("kind", [CLASSIFICATION, REGRESSION], ids=lambda kind: kind.name)
def test_what_is_reported_is_scored(kind):
    answers = (
        torch.zeros(2, 4, dtype=torch.long) if kind is CLASSIFICATION else torch.zeros(2, 4, 3)
    )
    scores = kind.scores(torch.randn(2, 4, 3), answers, torch.full((2,), math.log(3)))
    assert {"skill", *kind.reported} == scores.keys()
    assert all(value.shape == (2,) for value in scores.values())
