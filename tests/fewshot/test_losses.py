"""The distillation loss and the null loss."""

import math

import pytest
import torch
from torch.testing import assert_close

from fewshot.losses.distillation import soft_loss
from fewshot.losses.normalise import null_loss_of_episodes


def logits(seed, b=12, c=5, scale=1.0):
    made = torch.randn(b, c, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return made * scale


def at(temperature):
    return torch.tensor(temperature, dtype=torch.float64)


class TestSoftLoss:
    @pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 50.0])
    def test_is_the_formula(self, temperature):
        student, teacher = logits(0), logits(1)
        p, q = (teacher / temperature).softmax(-1), (student / temperature).softmax(-1)
        expected = temperature**2 * (p * (p / q).log()).sum(-1).mean()
        assert_close(soft_loss(student, teacher, at(temperature)), expected)

    @pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 50.0])
    def test_is_zero_where_rows_differ_by_constants(self, temperature):
        student = logits(0)
        teacher = student + logits(1, c=1)
        loss = soft_loss(student, teacher, at(temperature)).item()
        assert loss == pytest.approx(0, abs=1e-11)

    @pytest.mark.parametrize("seed", range(5))
    def test_is_above_zero_where_one_logit_of_one_row_differs(self, seed):
        student = logits(seed)
        teacher = student.clone()
        teacher[seed, seed % 5] += 0.1
        assert soft_loss(student, teacher, at(2.0)) > 1e-5

    @pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
    def test_is_never_below_zero(self, scale):
        for seed in range(20):
            student, teacher = logits(seed, scale=scale), logits(seed + 100, scale=scale)
            assert soft_loss(student, teacher, at(1.5)) > 0

    def test_is_the_mean_over_examples(self):
        student, teacher = logits(0), logits(1)
        rows = [soft_loss(s[None], t[None], at(3.0)) for s, t in zip(student, teacher, strict=True)]
        assert_close(soft_loss(student, teacher, at(3.0)), torch.stack(rows).mean())

    def test_weighs_the_classes_by_the_teacher(self):
        student, teacher = logits(0, scale=3), logits(1, scale=3)
        there = soft_loss(student, teacher, at(1.0))
        back = soft_loss(teacher, student, at(1.0))
        assert abs(there - back) > 0.05

    def test_its_gradient_is_about_the_same_at_any_temperature(self):
        norms = []
        for temperature in (1.0, 2.0, 5.0, 20.0, 100.0, 1000.0):
            student = logits(0).requires_grad_()
            soft_loss(student, logits(1), at(temperature)).backward()
            norms.append(student.grad.norm().item())
        assert max(norms) < 2 * min(norms)
        assert norms[-1] == pytest.approx(norms[-2], rel=0.02)

    def test_gives_the_teacher_no_gradient(self):
        student, teacher = logits(0).requires_grad_(), logits(1).requires_grad_()
        soft_loss(student, teacher, at(2.0)).backward()
        assert student.grad.abs().sum() > 0
        assert teacher.grad is None

    def test_at_high_temperature_matches_centred_logits(self):
        student, teacher = logits(0), logits(1)
        difference = student - teacher
        centred = difference - difference.mean(-1, keepdim=True)
        expected = centred.square().mean(-1).mean() / 2
        assert_close(soft_loss(student, teacher, at(3000.0)), expected, rtol=1e-3, atol=0)


def test_the_null_loss_is_that_of_even_odds():
    even = torch.nn.functional.cross_entropy(torch.zeros(4, 7), torch.tensor([0, 3, 5, 6]))
    assert null_loss_of_episodes(7) == pytest.approx(even.item())
    assert null_loss_of_episodes(2) == pytest.approx(math.log(2))
