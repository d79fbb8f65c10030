"""How much each training task is expected to help with the validation tasks, before any training.

affinity_i = nearness_i * skill_i. Nearness: of the training examples that are closest to validation
examples, in the features of the untrained model, the part that belongs to task i, times the number
of tasks; it is 1 for a task that is as close as the average. Skill: that of the untrained model on
episodes of task i itself, at least 0. It is 0 for shuffled labels, from which nothing can be
learned, however close the examples are.

This is a guess. It takes no training, but a task can help for reasons that it does not see.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from fewshot.episodes import bounds
from fewshot.errors.parts import as_input_error
from fewshot.functional import one_hot
from fewshot.randomness import fold
from fewshot.tasks.pool import TaskPool
from fewshot.tasks.regression import RegressionPool
from trials.contract import Recipe
from trials.data.pools import TaskKind, pools_of, sources_of
from trials.programs.factories import BuildContext, build_learner, features_of
from trials.programs.meta_training.scoring import HeldOutTasks
from trials.programs.untrained import untrained

# Queries per task that measure the skill: its standard error is then about .03.
_QUERIES = 300
# Examples per task whose distances are compared. For each validation example, this part of that
# number counts as close, whichever tasks they belong to.
_EXAMPLES, _CLOSEST = 256, 0.2
# The most examples of all tasks together, and the most numbers in them.
_ALL_EXAMPLES, _ALL_NUMBERS = 20_000, 1 << 27
# Random stream of the episodes.
_STREAM = 5


def affinities(recipe: Recipe, cache: Path) -> dict[str, float]:
    """The affinity of each training task of a recipe of meta-training, >= 0.

    Empty if the untrained model means nothing, or if tasks are of several kinds. Raises InputError
    if a user's model raises an exception.
    """
    if recipe.program == "worlds":
        return {}
    sources = sources_of(recipe, cache)
    pools = pools_of(recipe, sources, torch.device("cpu"))
    plain = untrained(recipe, pools)
    if plain is None or len(pools) > 1:
        return {}
    ((task_kind, by_split),) = pools.items()
    train, validation = by_split["train"], by_split["validation"]
    assert isinstance(train, TaskPool | RegressionPool), "functions have no untrained model"
    assert isinstance(validation, TaskPool | RegressionPool), "see above"
    context = BuildContext(inputs=train.inputs, cache=cache)
    with as_input_error("model", "can't embed the examples"):
        skills = skills_of(plain, train, task_kind, context)
        votes = votes_of(*examples_of(plain, train, validation, task_kind, context))
    return {
        name: near * max(0.0, skills[name])
        for name, near in zip(train.names, nearness_of(votes).tolist(), strict=True)
    }


def _limit(pool: TaskPool | RegressionPool) -> int:
    """The number of examples per task that may be used."""
    most = min(_ALL_EXAMPLES, _ALL_NUMBERS // math.prod(pool.features)) // len(pool.names)
    return max(1, most)


def n_episodes(recipe: Recipe, pool: TaskPool | RegressionPool) -> int:
    """The number of episodes per task."""
    way, shot, query = (bounds(count)[0] for count in (recipe.way, recipe.shot, recipe.query))
    wanted = math.ceil(_QUERIES / (way * query))
    return max(1, min(wanted, _limit(pool) // (way * (shot + query))))


def key_of(recipe: Recipe) -> Tensor:
    """The random key of the episodes from which affinity and similarity are measured."""
    return fold(torch.tensor(recipe.seed), _STREAM)


def skills_of(
    plain: Recipe, train: TaskPool | RegressionPool, task_kind: TaskKind, context: BuildContext
) -> Mapping[str, float]:
    """The skill of the untrained model on each training task."""
    learner = build_learner(plain, train.features, plain.max_way, task_kind, None, context)
    params = {
        name: value.unsqueeze(0)
        for name, value in learner.init(torch.Generator().manual_seed(0)).items()
    }
    hyper = {name: torch.ones(1) for name in learner.hyperparameters}
    tasks = HeldOutTasks(learner, {"search": (train, n_episodes(plain, train), key_of(plain))})
    with torch.no_grad():
        scores = tasks.score(params, hyper, "search")
    return {one.task: float(one.skill.mean()) for one in scores}


def examples_of(
    plain: Recipe,
    train: TaskPool | RegressionPool,
    validation: TaskPool | RegressionPool,
    task_kind: TaskKind,
    context: BuildContext,
) -> tuple[list[Tensor], list[Tensor]]:
    """Features (n, d) of examples of each training task, and (q, d) of each validation task."""
    known, asked = (_rows(plain, pool) for pool in (train, validation))
    n = min(len(rows) for rows in known)
    known = [rows[:n] for rows in known]
    rows = torch.cat(known + asked)
    features = task_features(plain, train.inputs[rows], task_kind, context)
    examples, queries = features.split([n * len(known), len(rows) - n * len(known)])
    return list(examples.split(n)), list(queries.split([len(own) for own in asked]))


def task_features(
    plain: Recipe, inputs: Tensor, task_kind: TaskKind, context: BuildContext
) -> Tensor:
    """The features (n, d) of inputs (n, ...) before any training."""
    features = features_of(plain, inputs[None], context)[0]
    if task_kind.source == "table":  # columns have different units
        features = (features - features.mean(0)) / features.std(0).clamp(min=1e-9)
    return features


def nearness_of(votes: Sequence[Tensor]) -> Tensor:
    """For each of t owners its part of all votes, times t, averaged over the queries' tasks, (t,).

    votes: see `votes_of`.
    """
    parts = [own.sum(0) / own.sum() for own in votes]
    return torch.stack(parts).sum(0) * len(parts[0]) / len(parts)


def votes_of(examples: Sequence[Tensor], queries: Sequence[Tensor]) -> list[Tensor]:
    """For each task's queries (q, d), how many of their closest examples each owner has, (q, t).

    examples: those of t owners, each (n, d); equally many of each owner are used.
    """
    n = min(len(own) for own in examples)
    owner = torch.arange(len(examples)).repeat_interleave(n)
    every = torch.cat([own[:n] for own in examples])
    found = []
    for asked in queries:
        closest = torch.cdist(asked, every).topk(max(1, round(_CLOSEST * n)), largest=False)
        found.append(one_hot(owner[closest.indices], len(examples), every).sum(1))
    return found


def _rows(plain: Recipe, pool: TaskPool | RegressionPool) -> list[Tensor]:
    """For each task the rows of some examples, at most `_EXAMPLES`, in random order."""
    drawn = pool.by_row().draw(key_of(plain), n_episodes(plain, pool))
    rows = torch.cat([drawn.support_x, drawn.query_x], -1).flatten(1)
    generator = torch.Generator().manual_seed(plain.seed)
    found = []
    for own in rows:
        distinct = own.unique()
        order = torch.randperm(len(distinct), generator=generator)
        found.append(distinct[order[: min(_EXAMPLES, _limit(pool))]])
    return found
