"""The baselines: how they pretrain, and the head that they fit."""

import math

import numpy as np
import pytest
import torch
from torch.func import grad
from torch.nn.functional import cross_entropy, normalize
from torch.testing import assert_close
from torch.utils._pytree import tree_map

from fewshot.episodes import Episode
from fewshot.learners.baseline import Baseline
from fewshot.learners.teacher import fit_logistic
from fewshot.models.mlp import MLP
from fewshot.models.untrained import Untrained
from fewshot.tasks.base import episode_keys
from fewshot.tasks.pool import Task, pool
from trials.programs.meta_training.objective import MetaTraining
from trials.programs.meta_training.task_group import TaskGroup

RATE = {"lr/adapt": torch.tensor(1.0, dtype=torch.float64)}
COUNTS = (4, 6)  # classes of two tasks


def overlapping() -> Episode:
    """One problem of three classes that no line tells apart; the queries are the support."""
    rng = torch.Generator().manual_seed(0)
    y = torch.arange(3).repeat_interleave(20)
    x = torch.randn(60, 2, generator=rng, dtype=torch.float64) + y.unsqueeze(-1)
    return Episode(x[None], y[None], x[None], y[None])


def test_the_new_head_reaches_the_loss_of_logistic_regression():
    problem = overlapping()
    x, y = problem.support_x[0], problem.support_y[0]
    weight, bias = fit_logistic(x.float(), y, 3, c=1e6)
    best = cross_entropy(x @ weight.double() + bias, y)
    fitted = Baseline(model=Untrained(), way=3, adapt_steps=1000).logits({}, problem, RATE)[0]
    nothing = Baseline(model=Untrained(), way=3, adapt_steps=0).logits({}, problem, RATE)[0]
    assert cross_entropy(nothing, y).item() == pytest.approx(math.log(3))
    assert cross_entropy(fitted, y).item() == pytest.approx(best.item(), abs=1e-3)


def test_the_new_cosine_head_begins_at_the_mean_directions_and_lowers_the_loss():
    problem = overlapping()
    x, y = normalize(problem.support_x[0], dim=-1), problem.support_y[0]
    losses = []
    for steps in (0, 1, 30):
        taught = Baseline(model=Untrained(), way=3, adapt_steps=steps, cosine=True)
        params = taught.init(torch.Generator())
        logits = taught.logits(params, problem, {"lr/adapt": torch.tensor(0.02)})[0]
        losses.append(cross_entropy(logits, y).item())
        if steps == 0:
            means = torch.stack([x[y == c].mean(0) for c in range(3)])
            scale = params["classes.log_scale"].exp()
            assert_close(logits, scale * x @ normalize(means, dim=-1).T)
    assert losses[2] < losses[1] < losses[0]


# ---- pretraining --------------------------------------------------------------------------------


def grouped_pool():
    """Two tasks of two groups each, whose inputs tell the row; 4 and 6 classes of 5 rows."""
    tasks, start = [], 0
    for name, n in zip("ab", COUNTS, strict=True):
        labels = np.arange(n).repeat(5)
        rows = np.arange(start, start + len(labels))
        tasks.append(Task(name, rows, labels, labels % 2))
        start += len(labels)
    return tasks, pool(tasks, torch.arange(50.0).view(50, 1), way=2, shot=2, query=3)


def test_the_classes_of_a_draw_are_told():
    tasks, drawn_from = grouped_pool()
    assert drawn_from.class_counts == COUNTS
    keys = torch.arange(20)
    own, task = episode_keys(keys, 2, 3), torch.arange(2)[:, None]
    drawn, classes = drawn_from.draw(keys, 3), drawn_from.classes_of(own, task)
    assert classes.shape == (20, 2, 3, 2)
    for t, task in enumerate(tasks):
        # Group after group, so the even labels come first.
        numbered = sorted(range(COUNTS[t]), key=lambda label: (label % 2, label))
        label_of = dict(zip(task.rows.tolist(), task.labels.tolist(), strict=True))
        for x, y in ((drawn.support_x, drawn.support_y), (drawn.query_x, drawn.query_y)):
            told = classes[:, t].gather(-1, y[:, t]).flatten().tolist()
            true = [label_of[int(row)] for row in x[:, t].flatten()]
            assert [numbered[c] for c in told] == true
        assert set(classes[:, t].flatten().tolist()) == set(range(COUNTS[t]))


def pretrained(cosine=False, width=5):
    model = MLP(features=(3,), hidden=(), n_out=width)
    taught = Baseline(model=model, way=2, classes=COUNTS, cosine=cosine)
    params = taught.init(torch.Generator().manual_seed(0))
    return taught, {name: value.double() for name, value in params.items()}


def three_episodes():
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(3, 10, 3, generator=rng, dtype=torch.float64)
    y = torch.arange(2).repeat_interleave(5).expand(3, -1)
    order = torch.tensor([0, 1, 5, 6, 2, 3, 4, 7, 8, 9])
    x, y = x[:, order], y[:, order]
    episodes = Episode(x[:, :4], y[:, :4], x[:, 4:], y[:, 4:])
    return episodes, torch.tensor([0, 1, 1]), torch.tensor([[3, 1], [5, 0], [2, 4]])


@pytest.mark.parametrize("cosine", [False, True])
def test_pretraining_is_classification_among_the_classes_of_the_task(cosine):
    taught, params = pretrained(cosine)
    episodes, tasks, classes = three_episodes()
    found = taught.class_losses(params, episodes, tasks, classes, {})
    for i, task in enumerate(tasks.tolist()):
        x = torch.cat([episodes.support_x[i], episodes.query_x[i]])
        y = classes[i][torch.cat([episodes.support_y[i], episodes.query_y[i]])]
        embedded = x @ params["weight0"] + params["bias0"]
        weight = params["classes.weight"][task, : COUNTS[task]]
        if cosine:
            scale = params["classes.log_scale"].exp()
            logits = scale * normalize(embedded, dim=-1) @ normalize(weight, dim=-1).T
        else:
            logits = embedded @ weight.T + params["classes.bias"][task, : COUNTS[task]]
        assert_close(found[i], cross_entropy(logits, y))


@pytest.mark.parametrize("cosine", [False, True])
def test_only_the_classes_of_the_drawn_tasks_move(cosine):
    taught, params = pretrained(cosine)
    episodes, tasks, classes = three_episodes()
    slope = grad(lambda p: taught.class_losses(p, episodes, tasks, classes, {})[0])(params)
    moved = slope["classes.weight"].abs().sum(-1) > 0
    assert moved.tolist() == [[True] * 4 + [False] * 2, [False] * 6]


def test_rows_without_a_label_count_for_nothing():
    taught, params = pretrained()
    episodes, tasks, classes = three_episodes()
    padded = Episode(
        torch.cat([episodes.support_x, torch.ones(3, 2, 3)], 1),
        torch.cat([episodes.support_y, torch.full((3, 2), -1)], 1),
        *episodes[2:],
    )
    hyper = {"lr/adapt": torch.tensor(0.1)}
    for what in (
        lambda e: taught.class_losses(params, e, tasks, classes, {}),
        lambda e: taught.logits(params, e, hyper),
    ):
        assert_close(what(padded), what(episodes))


@pytest.mark.parametrize("cosine", [False, True])
def test_a_task_of_weight_zero_changes_nothing_and_losses_are_in_units_of_the_null(cosine):
    _, drawn_from = grouped_pool()
    model = MLP(features=(1,), hidden=(4,), n_out=3)
    taught = Baseline(model=model, way=2, classes=COUNTS, cosine=cosine)
    objective = MetaTraining([TaskGroup(taught, drawn_from, {})], 2)
    params = objective.init(0)
    weights = torch.tensor([1.0, 0.0])
    (batch,) = objective.batch(objective.draw(torch.tensor([3]), torch.tensor([0]), weights[None]))
    one = tree_map(lambda part: part[0], batch)
    spoiled = one.episodes._replace(support_x=one.episodes.support_x.clone())
    spoiled.support_x[2:] += 7.0  # the episodes of the second task
    for episodes in (one.episodes, spoiled):
        slope = grad(objective.loss)(params, (one._replace(episodes=episodes),), {}, weights)
        assert slope["classes.weight"][1].abs().max() == 0
        if episodes is one.episodes:
            expected = slope
    for name, value in slope.items():
        assert_close(value, expected[name])
    if not cosine:  # a classifier that knows nothing has a loss of 1
        ignorant = params | {name: 0 * params[name] for name in ("classes.weight", "classes.bias")}
        even = torch.tensor([0.5, 0.5])
        assert objective.loss(ignorant, (one,), {}, even).item() == pytest.approx(1.0)
