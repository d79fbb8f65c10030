"""Three measures of how alike each training task is to each validation task, before any training.

- nearness: of the training examples that are closest to those of the validation task, in the
  features of the untrained model, the part that belongs to the training task, times the number of
  training tasks. It is 1 for a task that is as close as the average. Labels play no part.
- transfer: how much better a linear probe of the training task makes the features for the
  validation task than the same probe of permuted labels, see `transfer`.
- gradient: the cosine of the tasks' gradients at initialisation, see `gradients`.

Functions have no features, so a function is compared by its values at fixed points, see `curves`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from fewshot.errors.inputs import input_error
from fewshot.errors.parts import as_input_error
from fewshot.metrics import Estimate, error_over_tasks, estimate, mean_of
from fewshot.tasks.base import Pool
from fewshot.tasks.functions import FunctionPool
from fewshot.tasks.pool import TaskPool
from fewshot.tasks.regression import RegressionPool
from trials.contract import Recipe
from trials.data.pools import TaskKind, pools_of, sources_of
from trials.programs.factories import BuildContext
from trials.programs.similarity import curves
from trials.programs.similarity.affinity import examples_of, nearness_of, skills_of, votes_of
from trials.programs.similarity.gradients import cosines
from trials.programs.similarity.transfer import gains
from trials.programs.untrained import untrained

Measure = Literal["transfer", "nearness", "gradient"]
MEASURES: tuple[Measure, ...] = ("transfer", "nearness", "gradient")

# With fewer validation tasks than this, intervals are over episodes or examples only.
_MIN_TASKS = 3


@dataclass(frozen=True)
class Similarity:
    """Similarities of t training tasks to v validation tasks.

    tables: for each measure t rows of v estimates. A measure that does not apply has no table: one
    of features, for token ids without a pretrained model, or if tasks are of several kinds.
    coverage: for each validation task how well its examples mix with those of the training task
    with which they mix best: about 1 if both have the same inputs, 0 if the closest examples of
    either task are its own. Labels play no part.
    untrained: the skill of the untrained model on each validation task.
    own: the skill of the untrained model on the training tasks. affinity: what the sampler is
    given, see `trials.programs.similarity.affinity`; it is nearness times this skill.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    tables: Mapping[Measure, Sequence[Sequence[Estimate]]]
    coverage: Mapping[str, float]
    untrained: Mapping[str, Estimate]
    own: Mapping[str, float]

    def means(self, measure: Measure) -> dict[str, Estimate]:
        """For each training task the mean of a measure over the validation tasks."""
        rows = self.tables.get(measure, ())
        return {task: over_tasks(row) for task, row in zip(self.train, rows, strict=False)}

    @property
    def affinity(self) -> dict[str, float]:
        """Nearness times skill of each training task; empty if either is unknown."""
        means = self.means("nearness")
        return {task: means[task].mean * max(0.0, skill) for task, skill in self.own.items()}

    def ranking(self) -> list[str]:
        """The training tasks, the most similar first, by the first measure that applies."""
        measure = next(measure for measure in MEASURES if measure in self.tables)
        means = self.means(measure)
        return sorted(self.train, key=lambda task: -means[task].mean)


def over_tasks(row: Sequence[Estimate]) -> Estimate:
    """The mean of estimates, one for each validation task.

    Three tasks or more are treated as a sample of all tasks; of fewer, the error is that within
    the tasks.
    """
    mean = mean_of(row)
    if len(row) < _MIN_TASKS:
        return mean
    return Estimate(mean.mean, error_over_tasks(row), mean.n)


def similarity(recipe: Recipe, cache: Path, hyperparameters: Mapping[str, float]) -> Similarity:
    """The similarities of the tasks of a recipe of meta-training.

    hyperparameters: those of a trial; the gradients are taken at the rates of its inner loop.

    Raises InputError if the recipe has no training tasks, or if a user's part raises an exception.
    """
    if recipe.function is not None or not recipe.tasks.get("train"):
        remedy = "Only a search with training tasks and a learner can measure it."
        raise input_error("tasks.train", "there are no training tasks to compare.", None, remedy)
    if recipe.program == "worlds":
        rule = "worlds have no examples or supports to compare."
        raise input_error("tasks.train", rule)
    sources = sources_of(recipe, cache)
    pools = pools_of(recipe, sources, torch.device("cpu"))
    train, validation = (
        tuple(n for by in pools.values() if split in by for n in by[split].names)
        for split in ("train", "validation")
    )
    tables: dict[Measure, Sequence[Sequence[Estimate]]] = {}
    found = _of_features(recipe, pools, cache)
    tables |= found.tables
    with as_input_error("learner", "can't compute gradients"):
        tables["gradient"] = cosines(recipe, sources, pools, cache, hyperparameters)
    return Similarity(
        train,
        validation,
        tables,
        dict(zip(validation, found.coverage, strict=False)),
        dict(zip(validation, found.untrained, strict=False)),
        found.own,
    )


@dataclass(frozen=True)
class _Features:
    """The fields of `Similarity` that need features; empty if there are none."""

    tables: Mapping[Measure, Sequence[Sequence[Estimate]]]
    coverage: Sequence[float] = ()
    untrained: Sequence[Estimate] = ()
    own: Mapping[str, float] = field(default_factory=dict)


def _of_features(
    recipe: Recipe, pools: Mapping[TaskKind, Mapping[str, Pool]], cache: Path
) -> _Features:
    if len(pools) > 1:
        return _Features({})
    ((task_kind, by_split),) = pools.items()
    train, validation = by_split["train"], by_split["validation"]
    if isinstance(train, FunctionPool):
        assert isinstance(validation, FunctionPool), "tasks of one kind"
        examples, queries = curves.examples_of(recipe, train, validation)
        tables: dict[Measure, Sequence[Sequence[Estimate]]] = {
            "transfer": curves.gains(recipe, train, validation),
            "nearness": _nearness(votes_of(examples, queries)),
        }
        return _Features(tables, _coverage(examples, queries))
    plain = untrained(recipe, pools)
    if plain is None:
        return _Features({})
    assert isinstance(train, TaskPool | RegressionPool), "there are no other pools of rows"
    assert isinstance(validation, TaskPool | RegressionPool), "there are no other pools of rows"
    context = BuildContext(inputs=train.inputs, cache=cache)
    with as_input_error("model", "can't embed the examples"):
        examples, queries = examples_of(plain, train, validation, task_kind, context)
        own = skills_of(plain, train, task_kind, context)
        moved, alone = gains(plain, train, validation, task_kind, context)
    tables = {"transfer": moved, "nearness": _nearness(votes_of(examples, queries))}
    return _Features(tables, _coverage(examples, queries), alone, own)


def _nearness(votes: Sequence[Tensor]) -> list[list[Estimate]]:
    """Estimates over the examples of each validation task, t rows of v."""
    t = votes[0].shape[1]
    parts = [own * t / own.sum(1, keepdim=True) for own in votes]
    exact = [nearness_of([own]) for own in votes]
    return [
        [
            estimate(part[:, i])._replace(mean=float(mean[i]))
            for part, mean in zip(parts, exact, strict=True)
        ]
        for i in range(t)
    ]


def _coverage(examples: Sequence[Tensor], queries: Sequence[Tensor]) -> list[float]:
    """The coverage of each validation task by its most similar training task."""
    return [max(_mixing(known, asked) for known in examples) for asked in queries]


def _mixing(a: Tensor, b: Tensor) -> float:
    """How well examples a (n, d) and b (m, d) mix: 0 if apart, about 1 for the same distribution.

    For each of some examples of one task, the part of the closest examples that are of the other
    task, times two. Of the two directions the lower one counts: blurred images are close to all
    images, but these are not close to them.
    """
    half = min(len(a), len(b)) // 2
    if half == 0:
        return 1.0
    parts = [x[: 2 * half].split(half) for x in (a, b)]
    competing = [part[0] for part in parts]
    votes = votes_of(competing, [part[1] for part in parts])
    crossing = [float(2 * own[:, 1 - i].sum() / own.sum()) for i, own in enumerate(votes)]
    return min(crossing)
