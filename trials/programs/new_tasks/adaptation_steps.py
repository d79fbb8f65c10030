"""Scores stored models after different numbers of adaptation steps, without any training."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from fewshot.episodes import Episode, hide_query_labels
from fewshot.functional import Params
from fewshot.learners.fine_tuned import STEPS
from fewshot.learners.learners import learner_named
from fewshot.registry import options_of
from trials.contract import Recipe
from trials.data.pools import pools_of, sources_of
from trials.programs.build import task_groups
from trials.programs.meta_training.objective import MetaTraining
from trials.programs.meta_training.scoring import with_states
from trials.programs.meta_training.task_group import TaskGroup

# The option of a learner that adapts by gradient steps.
_OPTION = "adapt_steps"
# The time of a task is the shortest of this many repetitions.
_REPETITIONS = 5


@dataclass(frozen=True, eq=False)
class StepScores:
    """The scores of m models after `steps` adaptation steps; None for a learner without steps.

    skills: (m, v), on v validation tasks. seconds: of CPU time, to adapt one model to one new task
    and to predict its queries.
    """

    steps: int | None
    skills: Tensor
    seconds: float


def adapt_steps_of(recipe: Recipe, hyperparameters: Mapping[str, float]) -> int | None:
    """The adaptation steps of a trial; None if its learner does not adapt by steps."""
    option = options_of(learner_named(recipe.learner.name), ()).get(_OPTION)
    if option is None:
        return None
    most = int(recipe.learner.options.get(_OPTION, option.default))
    return min(most, round(hyperparameters[STEPS])) if STEPS in hyperparameters else most


def scores_by_steps(
    recipe: Recipe,
    cache: Path,
    models: Sequence[Params],
    hyperparameters: Mapping[str, float],
    numbers: Sequence[int | None],
) -> Iterator[StepScores]:
    """Scores on the episodes that score finalists, for each number of adaptation steps.

    models: parameters of trials of this recipe. hyperparameters: of the trials; the rates of
    adaptation are theirs. numbers: of steps, >= 0; only None if the learner has no steps.
    """
    sources = sources_of(recipe, cache)
    cpu = torch.device("cpu")
    pools = pools_of(recipe, sources, cpu)
    stacked = {name: torch.stack([model[name] for model in models]) for name in models[0]}
    for steps in numbers:
        changed, values = recipe, dict(hyperparameters)
        if steps is not None:
            options = {**recipe.learner.options, _OPTION: steps}
            changed = replace(recipe, learner=replace(recipe.learner, options=options))
            values |= {STEPS: float(steps)} if STEPS in values else {}
        # Of the stages, only `final` also calibrates, which takes time and is not needed here.
        parts = [
            replace(part, held_out={"search": part.held_out["final"]})
            for part in task_groups(changed, sources, pools, cpu, cache)
            if "final" in part.held_out
        ]
        objective = MetaTraining(parts, recipe.episodes)
        hyper = {
            name: torch.full((len(models),), values.get(name, math.nan))
            for name in objective.hyperparameters
        }
        with torch.no_grad():
            scores = objective.score(stacked, hyper, "search")
            seconds = sum(_seconds(part, models[0], values) for part in parts) / len(parts)
        yield StepScores(steps, torch.stack([one.skill.mean(1) for one in scores], 1), seconds)


def _seconds(part: TaskGroup, params: Params, values: Mapping[str, float]) -> float:
    """Seconds to adapt to the first scoring episode and to predict its queries."""
    one = Episode(*(x[:1] for x in part.scoring.episodes("search")))
    seen = with_states(part.frozen, hide_query_labels(one), dims=2)
    hyper = {
        name: torch.tensor(values.get(name, math.nan)) for name in part.learner.hyperparameters
    }
    found = []
    for _ in range(_REPETITIONS):
        start = time.process_time()
        part.learner.logits(params, seen, hyper)
        found.append(time.process_time() - start)
    return min(found)


def initial_models(
    recipe: Recipe, cache: Path, seeds: Sequence[int], hyperparameters: Mapping[str, float]
) -> list[Params]:
    """The parameters of trials with these seeds before their first step."""
    sources, cpu = sources_of(recipe, cache), torch.device("cpu")
    parts = task_groups(recipe, sources, pools_of(recipe, sources, cpu), cpu, cache)
    objective = MetaTraining(parts, recipe.episodes)
    return [objective.init(seed, hyperparameters) for seed in seeds]
