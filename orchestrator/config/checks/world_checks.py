"""Checks of a config whose tasks are worlds."""

from fewshot.errors.inputs import ErrorDetail
from fewshot.learners.reinforcement.world_learners import WORLD_LEARNERS
from orchestrator.config.sections.config import Config
from orchestrator.config.sections.tasks import WorldSection


def check_worlds(config: Config) -> list[ErrorDetail]:
    """All errors between the sections of a config with at least one world."""
    remedy = "Remove it."
    details = [
        ErrorDetail(place, "must be a world too: worlds are not mixed with other tasks.")
        for place, task in config.all_tasks().items()
        if not isinstance(task, WorldSection)
    ]
    name = None if config.learner is None else config.learner.name
    if name not in WORLD_LEARNERS:
        rule = f"must be one of {', '.join(sorted(WORLD_LEARNERS))} to learn worlds."
        details.append(ErrorDetail("learner.name", rule, name))
    details += [
        ErrorDetail(place, "is not used by worlds.", None, remedy)
        for place, given in (
            ("datasets", config.datasets),
            ("teacher", config.teacher),
            ("distillation", config.distillation),
            ("episodes.way", config.episodes.way),
            ("episodes.imbalance", config.episodes.imbalance),
        )
        if given
    ]
    details += [
        ErrorDetail(f"episodes.{key}", "must be a single number: trajectories.", list(count))
        for key in ("shot", "query")
        if isinstance(count := getattr(config.episodes, key), tuple)
    ]
    if config.space.task_weights.weights_as != "loss":
        rule = "must be loss: worlds can't be sampled, because each has operations of its own."
        found = config.space.task_weights.weights_as
        details.append(ErrorDetail("space.task_weights.weights_as", rule, found))
    return details
