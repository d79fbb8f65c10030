"""Meta-training: what the weights weigh, what a teacher adds, and what a learner may not see."""

from dataclasses import replace

import pytest
import torch
from torch.func import grad, vmap
from torch.nn.functional import cross_entropy, one_hot
from torch.testing import assert_close
from torch.utils._pytree import tree_map

from fewshot.episodes import Episode
from fewshot.learners.baseline import Baseline
from fewshot.learners.metric.matching import MatchingNet
from fewshot.learners.metric.protonet import ProtoNet
from fewshot.learners.metric.ridge import Ridge
from fewshot.learners.metric.simpleshot import SimpleShot
from fewshot.losses.distillation import HINTON, Distillation
from fewshot.models.mlp import MLP
from fewshot.randomness import fold
from fewshot.tasks.functions import FAMILIES, function_pool
from fewshot.tasks.pool import Task, TaskPool, pool
from tests.trials.conformance import assert_same_reports, drive, taught
from tests.trials.double import InDouble
from trials.programs.meta_training.objective import MetaTraining
from trials.programs.meta_training.task_group import TaskGroup, TeacherSignal
from trials.programs.teachers import Teacher

WAY, EPISODES = 3, 2


def rows(seed=0):
    """Four tasks of five classes of twelve examples, each noisier than the one before."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(20, 1, 6, generator=generator)
    noise = torch.tensor([0.2, 0.6, 1.5, 4.0]).repeat_interleave(5)[:, None, None]
    return (means + noise * torch.randn(20, 12, 6, generator=generator)).flatten(0, 1)


def training_pool():
    labels = torch.arange(5).repeat_interleave(12).numpy()
    tasks = [Task(f"t{i}", torch.arange(60).numpy() + 60 * i, labels, 0 * labels) for i in range(4)]
    return pool(tasks, rows(), way=WAY, shot=2, query=3)


def protonet():
    return ProtoNet(model=MLP(features=(6,), hidden=(), n_out=4), way=WAY)


def objective(weights_as="loss", teacher_signal=None, learner=None, train=None):
    train = train or training_pool()
    held_out = {"search": (train, 30, torch.tensor(5))}
    sampled = weights_as == "sampling"
    part = TaskGroup(
        learner or protonet(), train, held_out, sampled=sampled, teacher_signal=teacher_signal
    )
    return MetaTraining([part], EPISODES)


def first_lane(batch):
    return tree_map(lambda part: part[0], batch)


def gradients(made, params, weights, n, hyper=None):
    """Flat gradients (n, p) of the first step of n trials with these parameters and weights."""
    lanes = weights.expand(n, -1)
    batch = made.batch(made.draw(torch.arange(n), torch.zeros(n, dtype=torch.int64), lanes))
    slopes = vmap(grad(made.loss), in_dims=(None, 0, None, None))
    found = slopes(params, batch, hyper or {}, weights)
    return torch.cat([part.flatten(1) for part in found.values()], 1).double()


# ---- scores -----------------------------------------------------------------------------------


class _Whole:
    """A learner that is to be shown whole examples, whatever it makes of them."""

    def __init__(self, learner):
        self.hyperparameters = learner.hyperparameters
        self.model_scores_classes = learner.model_scores_classes
        self.init, self.logits, self.meta_logits = learner.init, learner.logits, learner.meta_logits


class _Counting(MLP):
    """A model that knows how many examples it has embedded."""

    embedded = 0

    def apply(self, params, x):
        self.embedded += len(x)
        return super().apply(params, x)


@pytest.mark.parametrize("learner", [ProtoNet, MatchingNet, SimpleShot, Ridge, Baseline])
def test_each_example_is_embedded_once_for_the_same_scores(learner):
    model = _Counting(features=(6,), hidden=(), n_out=4)
    made = learner(model=model, way=WAY)
    params = {
        name: torch.stack([part, 2 * part])
        for name, part in made.init(torch.Generator().manual_seed(0)).items()
    }
    hyper = {name: torch.full((2,), 0.1) for name in made.hyperparameters}
    scored = []
    for shown in (made, _Whole(made)):
        model.embedded = 0
        scored.append(objective(learner=shown).score(params, hyper, "search"))
        assert (model.embedded <= len(rows())) == (shown is made)
    for one, other in zip(*scored, strict=True):
        assert_close(one.skill, other.skill)
        assert_close(one.metrics, other.metrics)


# ---- weights ----------------------------------------------------------------------------------


class TestSampling:
    WEIGHTS = torch.tensor([0.05, 0.15, 0.2, 0.6])

    def test_its_gradient_is_that_of_weighted_losses_on_average(self):
        n, params = 3000, objective().init(0)
        weighted = gradients(objective("loss"), params, self.WEIGHTS, n)
        sampled = gradients(objective("sampling"), params, self.WEIGHTS, n)
        error = (weighted.var(0) / n + sampled.var(0) / n).sqrt()
        off = (sampled.mean(0) - weighted.mean(0)).abs() / error
        assert off.max() < 4.5  # of 28 numbers
        uniform = gradients(objective("loss"), params, torch.full((4,), 0.25), n)
        assert ((uniform.mean(0) - weighted.mean(0)).abs() / error).max() > 20

    def test_a_task_without_weight_is_never_drawn(self):
        made = objective("sampling")
        weights = torch.tensor([0.5, 0.0, 0.5, 0.0]).expand(200, -1)
        (batch,) = made.batch(
            made.draw(torch.arange(200), torch.zeros(200, dtype=torch.int64), weights)
        )
        assert batch.task.shape == (200, 4 * EPISODES)
        assert set(batch.task.unique().tolist()) == {0, 2}

    def test_each_lane_draws_by_its_own_weights(self):
        made, weights = objective("sampling"), torch.eye(4)
        seeds, steps = torch.full((4,), 3), torch.zeros(4, dtype=torch.int64)
        (batch,) = made.batch(made.draw(seeds, steps, weights))
        assert torch.equal(batch.task, torch.arange(4)[:, None].expand(-1, 4 * EPISODES))

    def test_each_step_draws_anew(self):
        made, weights = objective("sampling"), self.WEIGHTS.expand(50, -1)
        (batch,) = made.batch(made.draw(torch.full((50,), 3), torch.arange(50), weights))
        assert len(batch.task.unique(dim=0)) > 3

    def test_losses_are_divided_by_the_null_loss_of_their_own_task(self):
        names = ("line", "sinusoid")
        train = function_pool(names, [FAMILIES[n] for n in names], shot=3, query=4)
        made = objective("sampling", train=train, learner=_Zero())
        batch = made.batch(
            made.draw(torch.arange(1), torch.zeros(1, dtype=torch.int64), torch.ones(1, 2) / 2)
        )
        (one,) = first_lane(batch)
        expected = one.episodes.query_y.square().mean((1, 2)) / train.null_losses[one.task]
        assert_close(made.loss({}, (one,), {}, torch.ones(2) / 2), expected.mean())

    def test_with_tasks_of_two_sorts_its_gradient_is_still_that_of_weighted_losses(self):
        names = ("line", "square")
        numbers = function_pool(names, [FAMILIES[n] for n in names], shot=3, query=4)
        weights, n = torch.tensor([0.1, 0.2, 0.1, 0.1, 0.35, 0.15]), 3000
        found = {}
        for sampled in (False, True):
            parts = [
                TaskGroup(protonet(), training_pool(), {}, sampled=sampled),
                TaskGroup(_Constant(), numbers, {}, sampled=sampled),
            ]
            made = MetaTraining(parts, EPISODES)
            found[sampled] = gradients(made, made.init(0), weights, n)
        error = sum(slope.var(0) / n for slope in found.values()).sqrt()
        assert ((found[True].mean(0) - found[False].mean(0)).abs() / error).max() < 4.5
        assert found[True][:, -1].abs().mean() > 0.1

    def test_a_sort_without_weight_has_no_gradient(self):
        names = ("line", "square")
        numbers = function_pool(names, [FAMILIES[n] for n in names], shot=3, query=4)
        parts = [
            TaskGroup(p, t, {}, sampled=True)
            for p, t in ((protonet(), training_pool()), (_Constant(), numbers))
        ]
        made = MetaTraining(parts, EPISODES)
        weights = torch.tensor([0.25] * 4 + [0.0] * 2)
        assert gradients(made, made.init(0), weights, 5)[:, -1].abs().max() == 0


class _Constant:
    """Answers a number that it learns."""

    hyperparameters = ()

    def init(self, generator):
        return {"z": torch.ones(1)}

    def meta_logits(self, params, episodes, hyper):
        return params["z"] + torch.zeros_like(episodes.query_x)


class _Zero:
    """Answers zero to everything."""

    hyperparameters = ()

    def meta_logits(self, params, episodes, hyper):
        return torch.zeros_like(episodes.query_x)


# ---- teachers ---------------------------------------------------------------------------------


def soft(temperature, weight):
    return {
        "distill/temperature": torch.tensor(temperature),
        "distill/soft_weight": torch.tensor(weight),
    }


def teacher_signal(distillation=HINTON):
    """A prototypical network that sees the examples without the student's linear layer."""
    seen = rows()
    means = ProtoNet(model=MLP(features=(6,), hidden=(), n_out=6), way=WAY)
    eye = {"weight0": torch.eye(6), "bias0": torch.zeros(6)}
    params = means.init(torch.Generator())
    assert params.keys() == eye.keys()
    return TeacherSignal(Teacher(means, ((eye, {}),), (seen,)), distillation)


class TestTeacher:
    def by_row(self, distillation=HINTON):
        return objective(teacher_signal=teacher_signal(distillation))

    def test_without_weight_it_changes_nothing(self):
        params, weights = objective().init(0), torch.full((4,), 0.25)
        plain = gradients(objective(), params, weights, 5)
        with_teacher = gradients(self.by_row(), params, weights, 5, soft(3.0, 0.0))
        assert_close(with_teacher, plain)

    def test_its_loss_is_the_formula(self):
        made, weights = InDouble(self.by_row()), torch.rand(1, 4).double()
        params = made.init(0)
        batch = made.batch(made.draw(torch.arange(1), torch.zeros(1, dtype=torch.int64), weights))
        drawn = training_pool().draw(fold(torch.arange(1), torch.zeros(1).long()), EPISODES)
        episodes = Episode(*(part.flatten(0, 2) for part in drawn))
        exact = {"support_x": episodes.support_x.double(), "query_x": episodes.query_x.double()}
        episodes = episodes._replace(**exact)
        student = protonet().logits(params, episodes, {})
        teacher = -torch.cdist(
            episodes.query_x, episodes.support_x.view(-1, WAY, 2, 6).mean(2)
        ).square()
        hard = cross_entropy(student.flatten(0, 1), episodes.query_y.flatten(), reduction="none")
        p, q = (teacher / 3).softmax(-1), (student / 3).log_softmax(-1)
        kl = 9 * (p * (p.log() - q)).sum(-1).flatten()
        per_task = (0.25 * hard + 0.75 * kl).view(4, -1).mean(1) / training_pool().null_losses
        one = first_lane(batch)
        hyper = {name: value.double() for name, value in soft(3.0, 0.75).items()}
        found = made.loss(params, one, hyper, weights[0])
        assert_close(found, (weights[0] * per_task).sum())

    def test_which_soft_loss_is_decided_by_the_recipe(self):
        params, weights = objective().init(0), torch.full((4,), 0.25)
        variants = (HINTON, Distillation(direction="reverse"), Distillation(decoupled=(1.0, 8.0)))
        found = [gradients(self.by_row(v), params, weights, 2, soft(1.0, 1.0)) for v in variants]
        assert not torch.allclose(found[0], found[1], rtol=1e-2)
        assert not torch.allclose(found[0], found[2], rtol=1e-2)

    def test_a_trial_that_does_not_listen_is_the_trial_without_a_teacher(self, tmp_path):
        case = replace(taught(tmp_path), double=True)
        deaf = {**case.hyperparameters, "distill/soft_weight": 0.0}
        spec = case.spec(0, hyperparameters=deaf)
        alone = replace(spec, recipe=replace(case.recipe, teacher=None))
        stories = [
            drive(case.program(tmp_path / name, recipe=one.recipe), [one])[one.key]
            for name, one in (("a", spec), ("b", alone))
        ]
        assert_same_reports(*(story.reports for story in stories))


# ---- what nobody may see ----------------------------------------------------------------------


class _Peeking:
    """Answers each query with the label that it finds there."""

    hyperparameters = ()
    model_scores_classes = False

    def init(self, generator):
        return {"nothing": torch.zeros(1)}

    def logits(self, params, episodes, hyper):
        return 100.0 * one_hot(episodes.query_y, WAY) + params["nothing"]

    meta_logits = logits


class TestLabelsOfQueries:
    def test_a_learner_that_peeks_scores_no_better_than_chance(self):
        made = objective(learner=_Peeking())
        for scores in made.score({"nothing": torch.zeros(1, 1)}, {}, "search"):
            assert scores.skill.abs().max() < 1e-9

    def test_a_learner_that_peeks_is_charged_as_one_that_does_not(self):
        made = objective(learner=_Peeking())
        weights = torch.full((1, 4), 0.25)
        batch = made.batch(made.draw(torch.arange(1), torch.zeros(1, dtype=torch.int64), weights))
        loss = vmap(made.loss, in_dims=(None, 0, None, 0))(
            {"nothing": torch.zeros(1)}, batch, {}, weights
        )
        assert loss.item() > 10

    @pytest.mark.parametrize("weights_as", ["loss", "sampling"])
    def test_a_teachers_answers_do_not_change_with_them(self, weights_as):
        one = objective(weights_as, teacher_signal())
        other = objective(weights_as, teacher_signal(), train=_mislabelled(training_pool()))
        args = torch.arange(3), torch.arange(3), torch.full((3, 4), 0.25)
        batches = *one.batch(one.draw(*args)), *other.batch(other.draw(*args))
        assert not torch.equal(*(b.episodes.query_y for b in batches))
        assert torch.equal(*(b.taught[0] for b in batches))


def _mislabelled(made):
    """A pool whose queries all have the label of another class."""

    class Mislabelled(TaskPool):
        def draw_of(self, keys, task):
            drawn = super().draw_of(keys, task)
            return drawn._replace(query_y=(drawn.query_y + 1) % WAY)

    return Mislabelled(**vars(made))
