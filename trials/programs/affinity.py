"""How much each training task is expected to help with the validation tasks, before any training.

affinity_i = nearness_i * skill_i. Nearness: of the training examples that are closest to validation
examples, in the features of the untrained model, the part that belongs to task i, times the number
of tasks; it is 1 for a task that is as close as the average. Skill: that of the untrained model on
episodes of task i itself, at least 0. It is 0 for shuffled labels, from which nothing can be
learned, however close the examples are.

This is a guess. It takes no training, but a task can help for reasons that it does not see.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from fewshot.episodes import bounds
from fewshot.errors.parts import as_input_error
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
        skills = _skills(plain, train, task_kind, context)
        nearness = _nearness(plain, train, validation, task_kind, context)
    return {
        name: near * max(0.0, skills[name])
        for name, near in zip(train.names, nearness.tolist(), strict=True)
    }


def _limit(pool: TaskPool | RegressionPool) -> int:
    """The number of examples per task that may be used."""
    most = min(_ALL_EXAMPLES, _ALL_NUMBERS // math.prod(pool.features)) // len(pool.names)
    return max(1, most)


def _episodes(recipe: Recipe, pool: TaskPool | RegressionPool) -> int:
    """The number of episodes per task."""
    way, shot, query = (bounds(count)[0] for count in (recipe.way, recipe.shot, recipe.query))
    wanted = math.ceil(_QUERIES / (way * query))
    return max(1, min(wanted, _limit(pool) // (way * (shot + query))))


def _key(recipe: Recipe) -> Tensor:
    return fold(torch.tensor(recipe.seed), _STREAM)


def _skills(
    plain: Recipe, train: TaskPool | RegressionPool, task_kind: TaskKind, context: BuildContext
) -> Mapping[str, float]:
    """The skill of the untrained model on each training task."""
    learner = build_learner(plain, train.features, plain.max_way, task_kind, None, context)
    params = {
        name: value.unsqueeze(0)
        for name, value in learner.init(torch.Generator().manual_seed(0)).items()
    }
    hyper = {name: torch.ones(1) for name in learner.hyperparameters}
    tasks = HeldOutTasks(learner, {"search": (train, _episodes(plain, train), _key(plain))})
    with torch.no_grad():
        scores = tasks.score(params, hyper, "search")
    return {one.task: float(one.skill.mean()) for one in scores}


def _nearness(
    plain: Recipe,
    train: TaskPool | RegressionPool,
    validation: TaskPool | RegressionPool,
    task_kind: TaskKind,
    context: BuildContext,
) -> Tensor:
    """For each training task its part of the closest examples, times the number of tasks, (t,)."""
    known, asked = (_rows(plain, pool) for pool in (train, validation))
    n = min(len(rows) for rows in known)
    known = [rows[:n] for rows in known]
    features = features_of(plain, train.inputs[torch.cat(known + asked)][None], context)[0]
    if task_kind.source == "table":  # columns have different units
        features = (features - features.mean(0)) / features.std(0).clamp(min=1e-9)
    examples, *queries = features.split([n * len(known), *map(len, asked)])
    owner = torch.arange(len(known)).repeat_interleave(n)
    found = torch.zeros(len(known))
    for own in queries:
        closest = torch.cdist(own, examples).topk(max(1, round(_CLOSEST * n)), largest=False)
        votes = torch.bincount(owner[closest.indices].flatten(), minlength=len(known))
        found += votes / votes.sum()
    return found * len(known) / len(queries)


def _rows(plain: Recipe, pool: TaskPool | RegressionPool) -> list[Tensor]:
    """For each task the rows of some examples, at most `_EXAMPLES`, in random order."""
    drawn = pool.by_row().draw(_key(plain), _episodes(plain, pool))
    rows = torch.cat([drawn.support_x, drawn.query_x], -1).flatten(1)
    generator = torch.Generator().manual_seed(plain.seed)
    found = []
    for own in rows:
        distinct = own.unique()
        order = torch.randperm(len(distinct), generator=generator)
        found.append(distinct[order[: min(_EXAMPLES, _limit(pool))]])
    return found
