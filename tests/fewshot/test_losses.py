"""The distillation loss and the null loss."""

import math

import pytest
import torch
from torch.autograd import gradcheck
from torch.func import vmap
from torch.testing import assert_close

from fewshot.errors.inputs import InputError
from fewshot.losses.distillation import (
    HINTON,
    Distillation,
    decoupled,
    divergence,
    standardised,
)
from fewshot.losses.normalise import check_null_losses, null_loss_of_episodes


def logits(seed, b=12, c=5, scale=1.0):
    made = torch.randn(b, c, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return made * scale


def at(temperature):
    return torch.tensor(temperature, dtype=torch.float64)


def soft_loss(student, teacher, temperature, soft=HINTON, target=0):
    """The mean over examples, with one target class for all of them."""
    classes = torch.full(student.shape[:-1], target)
    return soft.losses(student, teacher, temperature, classes).mean()


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


VARIANTS = {
    "forward": HINTON,
    "reverse": Distillation(direction="reverse"),
    "standardised": Distillation(standardise=True),
    "standardised reverse": Distillation(standardise=True, direction="reverse"),
    "decoupled": Distillation(decoupled=(1.0, 8.0)),
    "decoupled standardised": Distillation(decoupled=(0.5, 2.0), standardise=True),
}


@pytest.mark.parametrize("soft", VARIANTS.values(), ids=VARIANTS)
class TestEverySoftLoss:
    def test_is_zero_for_equal_logits(self, soft):
        assert soft_loss(logits(0), logits(0), at(3.0), soft).item() == pytest.approx(0, abs=1e-12)

    @pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
    def test_is_above_zero_for_others(self, soft, scale):
        for seed in range(5):
            student, teacher = logits(seed, scale=scale), logits(seed + 100, scale=scale)
            assert soft_loss(student, teacher, at(1.5), soft, target=seed) > 0

    def test_does_not_see_what_is_added_to_all_logits(self, soft):
        student, teacher = logits(0), logits(1)
        moved = soft_loss(student + 7, teacher - 3 * logits(2, c=1), at(2.0), soft, 1)
        assert_close(moved, soft_loss(student, teacher, at(2.0), soft, 1))

    @pytest.mark.parametrize("temperature", [0.5, 1.0, 8.0])
    def test_its_gradient_is_that_of_finite_differences(self, soft, temperature):
        def loss(student, tau):
            return soft.losses(student, logits(1, b=4), tau, torch.tensor([0, 4, 2, 2]))

        inputs = (logits(0, b=4).requires_grad_(), at(temperature).requires_grad_())
        assert gradcheck(loss, inputs)

    def test_gives_the_teacher_no_gradient(self, soft):
        student, teacher = logits(0).requires_grad_(), logits(1).requires_grad_()
        soft_loss(student, teacher, at(2.0), soft).backward()
        assert student.grad.abs().sum() > 0
        assert teacher.grad is None

    @pytest.mark.parametrize("size", [1e4, 1e15])
    @pytest.mark.parametrize("c", [2, 5])
    def test_huge_logits_have_finite_losses_and_gradients(self, soft, size, c):
        student = logits(0, c=c, scale=size).float().requires_grad_()
        for teacher in (logits(1, c=c, scale=size).float(), torch.zeros(12, c)):
            loss = soft_loss(student, teacher, torch.tensor(1.0), soft)
            loss.backward()
            assert loss.isfinite()
            assert student.grad.isfinite().all()

    def test_constant_logits_have_finite_gradients(self, soft):
        student = torch.zeros(12, 5, requires_grad=True)
        soft_loss(student, logits(1).float(), torch.tensor(2.0), soft).backward()
        assert student.grad.isfinite().all()

    def test_each_lane_has_its_own_temperature(self, soft):
        students = torch.stack([logits(i) for i in range(3)])
        temperatures, target = torch.tensor([0.5, 2.0, 9.0]).double(), torch.arange(12) % 5
        mapped = vmap(soft.losses, in_dims=(0, None, 0, None))(
            students, logits(9), temperatures, target
        )
        looped = [
            soft.losses(s, logits(9), t, target)
            for s, t in zip(students, temperatures, strict=True)
        ]
        assert_close(mapped, torch.stack(looped))


class TestReverse:
    def test_is_the_other_divergence(self):
        student, teacher = logits(0, scale=3), logits(1, scale=3)
        there = soft_loss(student, teacher, at(2.0), VARIANTS["reverse"])
        assert_close(there, soft_loss(teacher, student, at(2.0)))

    def test_agrees_with_forward_at_high_temperature(self):
        losses = [
            soft_loss(logits(0), logits(1), at(3000.0), VARIANTS[k]) for k in ("forward", "reverse")
        ]
        assert_close(*losses, rtol=1e-3, atol=0)


class TestStandardised:
    @pytest.mark.parametrize("name", ["standardised", "decoupled standardised"])
    def test_sees_neither_the_scale_of_the_student_nor_that_of_the_teacher(self, name):
        student, teacher, soft = logits(0), logits(1), VARIANTS[name]
        scaled = soft_loss(0.01 * student + 5, 300 * teacher - 1, at(2.0), soft)
        assert_close(scaled, soft_loss(student, teacher, at(2.0), soft))

    def test_rows_have_mean_0_and_variance_1(self):
        rows = standardised(5 + 3 * logits(0))
        assert_close(rows.mean(-1), torch.zeros(12).double())
        assert_close(rows.var(-1, correction=0), torch.ones(12).double())

    def test_constant_rows_are_zero(self):
        assert torch.equal(standardised(torch.full((2, 5), 7.0)), torch.zeros(2, 5))


class TestDecoupled:
    @pytest.mark.parametrize("temperature", [1.0, 4.0])
    def test_with_the_weights_1_and_1_minus_p_it_is_the_divergence(self, temperature):
        student, teacher = logits(0) / temperature, logits(1) / temperature
        target = torch.arange(12) % 5
        p = teacher.softmax(-1).gather(-1, target[:, None])[:, 0]
        parts = decoupled(student, teacher, target, 1.0, 1 - p)
        assert_close(parts, divergence(teacher.log_softmax(-1), student.log_softmax(-1)))

    def test_its_parts_are_the_papers(self):
        student, teacher = logits(0), logits(1)
        p, q = teacher.softmax(-1), student.softmax(-1)
        two_p, two_q = (torch.stack([x[:, 2], 1 - x[:, 2]], -1) for x in (p, q))
        others = [0, 1, 3, 4]
        hat_p, hat_q = (x[:, others] / x[:, others].sum(-1, keepdim=True) for x in (p, q))
        expected = 0.5 * (two_p * (two_p / two_q).log()).sum(-1)
        expected += 2 * (hat_p * (hat_p / hat_q).log()).sum(-1)
        found = decoupled(student, teacher, torch.full((12,), 2), 0.5, 2.0)
        assert_close(found, expected)

    def test_of_two_classes_the_others_say_nothing(self):
        student, teacher = logits(0, c=2), logits(1, c=2)
        target = torch.zeros(12, dtype=torch.int64)
        alone = decoupled(student, teacher, target, 1.0, 0.0)
        assert_close(decoupled(student, teacher, target, 1.0, 99.0), alone)


def test_at_high_temperature_the_gradient_is_that_of_matching_logits():
    """(centred s - centred t) / c of each example, which is that of the MSE of logits over 2."""
    student, teacher = logits(0).requires_grad_(), logits(1)
    HINTON.losses(student, teacher, at(1e5), torch.zeros(12)).sum().backward()
    difference = (student - teacher).detach()
    expected = (difference - difference.mean(-1, keepdim=True)) / 5
    assert_close(student.grad, expected, rtol=1e-3, atol=1e-5)


def test_the_null_loss_is_that_of_even_odds():
    even = torch.nn.functional.cross_entropy(torch.zeros(4, 7), torch.tensor([0, 3, 5, 6]))
    assert null_loss_of_episodes(7, 7) == pytest.approx(even.item())
    assert null_loss_of_episodes(2, 2) == pytest.approx(math.log(2))


@pytest.mark.parametrize("null_loss", [0.0, -1.0, math.inf, math.nan])
def test_a_task_with_one_answer_is_refused_by_name(null_loss):
    with pytest.raises(InputError) as caught:
        check_null_losses(["fine", "constant"], [1.0, null_loss])
    (input_error,) = caught.value.details
    assert input_error.path == "tasks.constant"
    assert "nothing to learn" in input_error.rule
