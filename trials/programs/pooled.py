"""Pooled models: one model for all groups, the references of tasks that are groups of a table.

A pooled model learns from all rows of the training tasks at once, and does not adapt. It is a
linear regression for numbers, and a logistic regression for classes, on features that are scaled by
the training rows. It is hard to beat where groups are alike.

With a group offset, it adapts by one number for each output: the mean error b of the model on the
support, shrunk by n / (n + s_e^2 / s_b^2). The variances within and between the training groups are
s_e^2 and s_b^2. For classes, b is added to the logits and maximises the likelihood of the support
minus ||b||^2 / (2 s_b^2), where s_b is chosen on episodes of the training tasks.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fewshot.episodes import Episode, bounds
from fewshot.functional import mask_absent_classes
from fewshot.kinds import CLASSIFICATION
from fewshot.learners.scaled import scale_of
from fewshot.learners.teacher import fit_logistic
from fewshot.randomness import fold
from fewshot.tasks.base import Pool
from fewshot.tasks.pool import TaskPool
from fewshot.tasks.regression import RegressionPool
from trials.contract import Recipe, TaskSpec
from trials.data.pools import TaskKind, task_kinds
from trials.data.sources import Sources

POOLED, WITH_OFFSET = "pooled", "pooled_offset"
_PENALTY = 1e-3  # of the linear regression, for each row; features have variance 1
# The random stream of episodes that classes are learned from, their numbers per task, their rows.
_STREAM, _FEWEST, _EPISODES, _MOST_ROWS = 5, 16, 256, 20_000
_SPREADS = (0.0, 0.1, 0.3, 1.0, 3.0)  # of the offsets of classes
_STEPS, _RATE = 100, 0.5  # of the ascent that finds the offsets of classes
_INVERSE_PENALTY = 0.1  # of the logistic regression, see `fit_logistic`


@dataclass(frozen=True, eq=False)
class PooledModel:
    """outputs: (n, c), the numbers or logits of all rows of the inputs.

    codes: (n,) int64, the class of each row; -1 if no training task has it. Unused for numbers.
    shrinkage: s_e^2 / s_b^2 for numbers, s_b for classes.
    """

    outputs: Tensor
    codes: Tensor
    shrinkage: float
    regresses: bool

    def predictions(self, rows: Episode) -> dict[str, Tensor]:
        """By reference, the outputs (e, q, c) for the queries of episodes of rows (e, ..)."""
        support, query = (self.outputs[part] for part in (rows.support_x, rows.query_x))
        if self.regresses:
            n = support.shape[1]
            offset = (rows.support_y - support).mean(1, keepdim=True)
            share = n / (n + self.shrinkage) if math.isfinite(self.shrinkage) else 0.0
            return {POOLED: query, WITH_OFFSET: query + share * offset}
        classes = _classes(rows, self.codes, self.outputs.shape[1])
        way = classes.shape[1]
        support, query = (
            part.gather(2, classes[:, None].expand(-1, part.shape[1], way))
            for part in (support, query)
        )
        support, query = (mask_absent_classes(part, rows.support_y) for part in (support, query))
        shift = offsets(support, rows.support_y, self.shrinkage)
        return {POOLED: query, WITH_OFFSET: query + shift[:, None]}


def _classes(rows: Episode, codes: Tensor, n_classes: int) -> Tensor:
    """The pooled class (e, way) of each class of the episodes."""
    labels = rows.support_y
    way = int(labels.max()) + 1
    found = torch.zeros(len(labels), way + 1, dtype=torch.int64)
    found.scatter_(1, torch.where(labels < 0, way, labels), codes[rows.support_x])
    return found[:, :way].clamp(0, n_classes - 1)


def offsets(logits: Tensor, labels: Tensor, spread: float) -> Tensor:
    """Offsets (e, c) of the logits (e, s, c) that maximise the penalised likelihood of the labels.

    Labels (e, s) of -1 are padding. spread: s_b >= 0, the standard deviation of the offsets.
    """
    found = torch.zeros(len(logits), logits.shape[-1])
    if spread == 0:
        return found
    real = (labels >= 0)[..., None].float()
    wanted = torch.nn.functional.one_hot(labels.clamp(min=0), logits.shape[-1]) * real
    rate = _RATE / (real.sum(1).max().item() / 2 + spread**-2)
    for _ in range(_STEPS):
        error = wanted - (logits + found[:, None]).softmax(-1) * real
        found = found + rate * (error.sum(1) - found / spread**2)
    return found


def pooled_model(
    recipe: Recipe, sources: Sources | None, task_kind: TaskKind, by_split: Mapping[str, Pool]
) -> PooledModel | None:
    """The pooled model for the test tasks of a kind.

    None if the tasks are not tables, or if no training task predicts the same column as all test
    tasks, with all of their classes.
    """
    train, test = by_split.get("train"), by_split.get("test")
    if sources is None or task_kind.source != "table" or train is None or test is None:
        return None
    specs = task_kinds(recipe)[task_kind]
    labels = {spec.label for spec in specs["test"]}
    own = [i for i, spec in enumerate(specs["train"]) if _teaches(spec, labels)]
    if len(labels) != 1 or not own:
        return None
    assert isinstance(train, TaskPool | RegressionPool), "tables have no other pools"
    inputs = train.inputs.cpu().flatten(1).double()
    used = torch.cat([train.rows[i].cpu() for i in own])
    scale = scale_of(inputs[used][None], torch.ones(1, len(used), dtype=torch.float64))
    x = scale.to(inputs[None])[0]
    if isinstance(train, RegressionPool):
        return _of_numbers(x, train, own)
    return _of_classes(recipe, sources, x, train, test, own, specs)


def _teaches(spec: TaskSpec, labels: set[str]) -> bool:
    return spec.label in labels and spec.corrupt is None and not spec.noise


def _of_numbers(x: Tensor, train: RegressionPool, own: Sequence[int]) -> PooledModel:
    sizes = train.n_members.tolist()
    rows, values, groups = (
        torch.cat([parts[i].cpu() for i in own])
        for parts in (train.rows, train.values.split(sizes), train.groups)
    )
    seen, y = x[rows], values.double()
    design = seen.T @ seen + _PENALTY * len(seen) * torch.eye(x.shape[1], dtype=x.dtype)
    weight = torch.linalg.lstsq(design, seen.T @ (y - y.mean())).solution
    outputs = (x @ weight + y.mean()).float()[:, None]
    errors = y - outputs[rows, 0]
    return PooledModel(outputs, torch.empty(0), variance_ratio(errors, groups), True)


def variance_ratio(errors: Tensor, groups: Tensor) -> float:
    """s_e^2 / s_b^2 of errors (n,) of groups (n,); infinite if groups do not differ.

    s_e^2 is the variance within groups, s_b^2 the variance of the true means of the groups.
    """
    _, codes, counts = groups.unique(return_inverse=True, return_counts=True)
    n = counts.double()
    means = torch.zeros(len(n), dtype=torch.float64).index_add(0, codes, errors.double()) / n
    freedom = (n - 1).sum()
    within = float((errors - means[codes]).square().sum() / freedom) if freedom > 0 else 0.0
    between = float(means.square().mean() - (within / n).mean())
    return within / between if between > 0 else math.inf


def _of_classes(
    recipe: Recipe,
    sources: Sources,
    x: Tensor,
    train: TaskPool,
    test: Pool,
    own: Sequence[int],
    specs: Mapping[str, Sequence[TaskSpec]],
) -> PooledModel | None:
    assert isinstance(test, TaskPool), "tasks of one kind have the same pools"
    used = torch.cat([train.rows[i].cpu() for i in own]).unique()
    texts: np.ndarray[Any, np.dtype[np.object_]] = np.full(len(x), "", dtype=object)
    columns = {spec.dataset: spec for spec in (*specs["test"], *(specs["train"][i] for i in own))}
    for dataset, spec in columns.items():  # all of them predict the same column
        labels = sources.labels(spec, f"tasks.{spec.name}")
        texts[sources.offset[dataset] :][: len(labels)] = labels
    names = pd.Index(np.unique(texts[used.numpy()].astype(str)))
    codes = torch.from_numpy(names.get_indexer(texts).astype(np.int64))
    asked = torch.cat([rows.cpu() for rows in test.rows])
    if len(names) < 2 or bool((codes[asked] < 0).any()):
        return None
    drawn = _training_episodes(recipe, train)
    rows = Episode(*(part[own].flatten(0, 1) for part in drawn))
    # Episodes have equally many examples of each class and task. Their rows are learned from, so
    # that the model does not learn how common a disease is in each hospital.
    seen = torch.cat([rows.support_x[rows.support_y >= 0], rows.query_x[rows.query_y >= 0]])
    weight, bias = fit_logistic(x[seen].float(), codes[seen], len(names), c=_INVERSE_PENALTY)
    model = PooledModel(x.float() @ weight + bias, codes, 0.0, False)
    likelihood = {s: _likelihood(model, rows, s) for s in _SPREADS}
    return PooledModel(model.outputs, codes, max(_SPREADS, key=lambda s: likelihood[s]), False)


def _training_episodes(recipe: Recipe, train: TaskPool) -> Episode:
    """Episodes of row numbers (t, n, ...) of the training tasks, with about `_MOST_ROWS` rows."""
    way, shot, query = (bounds(count)[1] for count in (recipe.way, recipe.shot, recipe.query))
    n = _MOST_ROWS // (len(train.names) * way * (shot + query))
    key = fold(torch.tensor(recipe.seed), _STREAM)
    return train.by_row().to(torch.device("cpu")).draw(key, max(_FEWEST, min(n, _EPISODES)))


def _likelihood(model: PooledModel, rows: Episode, spread: float) -> float:
    tried = PooledModel(model.outputs, model.codes, spread, False)
    logits = tried.predictions(rows)[WITH_OFFSET]
    return -float(CLASSIFICATION.losses(logits, rows.query_y).mean())


def reference_scores(
    model: PooledModel, pool: Pool, key: Tensor, episodes: int
) -> dict[str, Tensor]:
    """By reference, the scores (t, episodes) on the episodes of a pool that a stage draws.

    The score is the accuracy of classes, and the skill for numbers.
    """
    assert isinstance(pool, TaskPool | RegressionPool), "tables have no other pools"
    cpu = torch.device("cpu")
    drawn = pool.by_row().to(cpu).draw(key.cpu(), episodes)
    rows = Episode(*(part.flatten(0, 1) for part in drawn))
    null_losses = pool.null_losses.cpu().repeat_interleave(episodes)
    unit = score_unit(pool)
    return {
        who: pool.kind.scores(found, rows.query_y, null_losses)[unit].unflatten(0, (-1, episodes))
        for who, found in model.predictions(rows).items()
    }


def score_unit(pool: Pool) -> str:
    """The score of an episode in which models are compared."""
    return "accuracy" if pool.kind is CLASSIFICATION else "skill"
