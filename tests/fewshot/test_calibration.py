import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from fewshot.calibration import fitted_scale
from fewshot.functional import mask_absent_classes
from fewshot.metrics import expected_calibration_error


def drawn(scale: float, n: int = 20_000, classes: int = 6):
    """Logits whose softmax, with this scale, is what the labels are drawn from."""
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(n, classes, generator=rng)
    labels = (scale * logits).softmax(-1).multinomial(1, generator=rng)[:, 0]
    return logits, labels


@pytest.mark.parametrize("scale", [0.1, 1.0, 20.0])
def test_the_scale_is_that_of_the_probabilities(scale):
    logits, labels = drawn(scale)
    found = fitted_scale(logits, labels).item()
    assert found == pytest.approx(scale, rel=0.1)
    losses = [cross_entropy(s * logits, labels) for s in (0.95 * found, found, 1.05 * found)]
    assert losses[1] == min(losses)
    right = expected_calibration_error((found * logits).softmax(-1), labels)
    wrong = expected_calibration_error((10 * found * logits).softmax(-1), labels)
    assert right < 0.02
    assert scale == 20 or wrong > 5 * right


def test_each_of_a_stack_has_its_own():
    both = [drawn(0.5, 500), drawn(4.0, 500)]
    logits, labels = (torch.stack(parts) for parts in zip(*both, strict=True))
    alone = torch.stack([fitted_scale(*one) for one in both])
    assert torch.allclose(fitted_scale(logits, labels), alone)


def test_padding_and_absent_classes_change_nothing():
    logits, labels = drawn(2.0, 500)
    padded = torch.cat([logits, torch.full((500, 2), 3.0)], 1)
    padded = mask_absent_classes(padded[None], torch.arange(6)[None])[0]
    padded, padding = torch.cat([padded, 9 * padded[:40]]), torch.full((40,), -1)
    found = fitted_scale(padded, torch.cat([labels, padding]))
    assert found.item() == pytest.approx(fitted_scale(logits, labels).item(), rel=1e-6)


def test_few_examples_hardly_move_a_scale_that_is_known():
    logits, labels = torch.eye(5) * 0.1, torch.arange(5)  # all correct: the best scale is infinite
    assert fitted_scale(logits, labels).item() > 100
    assert fitted_scale(logits, labels, prior=3.0).item() == pytest.approx(3.0, rel=0.6)
    many = fitted_scale(*drawn(2.0), prior=30.0).item()
    assert many == pytest.approx(2.0, rel=0.1)


def test_the_calibration_error_is_the_gap_between_confidence_and_accuracy():
    sure = torch.tensor([[0.9, 0.1]]).expand(10, 2)
    labels = torch.tensor([0] * 6 + [1] * 4)
    assert expected_calibration_error(sure, labels) == pytest.approx(0.3)
    halves = torch.cat([sure, torch.tensor([[1.0, 0.0]])])
    labels = torch.cat([labels, torch.tensor([0])])
    assert expected_calibration_error(halves, labels) == pytest.approx(3 / 11)
    assert math.isfinite(expected_calibration_error(torch.ones(1, 1), torch.zeros(1).long()))
