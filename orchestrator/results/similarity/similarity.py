"""The similarity of the tasks of a config, with warnings if meta-learning will hardly help."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fewshot.errors.inputs import input_error
from fewshot.metrics import Estimate, mean_of
from orchestrator.config.plan import Plan
from orchestrator.config.sections.config import Config
from orchestrator.config.sections.own_loop import AnyConfig
from orchestrator.record.home import Home
from orchestrator.search.advice import Advice
from orchestrator.search.decisions.trial_sources import first_trials
from trials.programs.similarity.similarity import Similarity, similarity

# Two tasks with the same inputs have a coverage of 1; below this value they have little in common.
_UNLIKE = 0.1
# From this skill on, the untrained model leaves nothing worth learning.
_CEILING = 0.97


@dataclass(frozen=True)
class TaskSimilarity:
    """measures: see `trials.programs.similarity`. warnings: reasons to expect no gain."""

    measures: Similarity
    warnings: Sequence[Advice]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; a NaN becomes null. Ranked tasks come first."""
        found = self.measures
        means = {measure: found.means(measure) for measure in found.tables}
        return {
            "ranking": [
                {
                    "task": task,
                    **{measure: _plain(of[task]) for measure, of in means.items()},
                    "affinity": found.affinity.get(task),
                }
                for task in found.ranking()
            ],
            "train": list(found.train),
            "validation": list(found.validation),
            "tables": {
                measure: [[_plain(one) for one in row] for row in table]
                for measure, table in found.tables.items()
            },
            "coverage": dict(found.coverage),
            "untrained": {task: _plain(one) for task, one in found.untrained.items()},
            "warnings": [str(warning) for warning in self.warnings],
        }


def _plain(one: Estimate) -> dict[str, float | None]:
    low, high = one.interval()
    ends = {"mean": one.mean, "low": low, "high": high}
    return {name: None if math.isnan(value) else value for name, value in ends.items()}


def measured(config: AnyConfig, plan: Plan, home: Home) -> TaskSimilarity:
    """The similarity of the tasks of a config; takes seconds to a minute, and trains nothing.

    If options of the recipe are searched, the model is that of the plain config.

    Raises InputError with every error in the data, or if the config has no training tasks.
    """
    if not isinstance(config, Config) or config.adapts:
        what = "a program of its own" if not isinstance(config, Config) else "no training tasks"
        rule = f"the config has {what}, so there are no tasks to compare."
        raise input_error("tasks.train", rule, None, "Give a config with training tasks.")
    hyperparameters, _ = plan.space.decode(first_trials(plan, {})[0])
    found = similarity(plan.recipe, home.cache, hyperparameters)
    return TaskSimilarity(found, warnings_of(found))


def warnings_of(found: Similarity) -> list[Advice]:
    """Reasons why meta-training on these tasks is unlikely to help, each with a remedy."""
    return [*_unlike(found), *_nothing_transfers(found), *_at_ceiling(found)]


def _unlike(found: Similarity) -> list[Advice]:
    far = [task for task, value in found.coverage.items() if value < _UNLIKE]
    if not far or len(far) < len(found.coverage) / 2:
        return []
    most = max(found.coverage[task] for task in far)
    warning = (
        f"{len(far)} of {len(found.coverage)} validation tasks have inputs unlike those of every "
        f"training task: their closest examples are their own (coverage {most:.2f} or less, 1 "
        "would be the same inputs)."
    )
    remedy = "Add training tasks with inputs like those of the validation tasks."
    return [Advice("tasks.train", warning, remedy)]


def _nothing_transfers(found: Similarity) -> list[Advice]:
    means = found.means("transfer")
    if not means or any(one.interval()[0] > 0 for one in means.values()):
        return []
    warning = (
        "no training task is above chance on transfer: a linear probe of its labels is no better "
        "for the validation tasks than one of permuted labels."
    )
    remedy = "Check the labels of the training tasks, or add tasks that are closer."
    return [Advice("tasks.train", warning, remedy)]


def _at_ceiling(found: Similarity) -> list[Advice]:
    if not found.untrained:
        return []
    mean = mean_of(list(found.untrained.values())).mean
    if mean < _CEILING:
        return []
    warning = (
        f"the untrained model has a skill of {mean:.3f} on the validation tasks; meta-training "
        f"can gain {1 - mean:.3f} at most."
    )
    remedy = "Use the untrained model, or harder episodes: a larger `way`, a smaller `shot`."
    return [Advice("tasks.validation", warning, remedy)]
