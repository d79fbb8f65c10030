"""All checks that involve several sections of a config."""

from collections.abc import Sequence
from dataclasses import replace

from fewshot.errors.inputs import ErrorDetail
from fewshot.learners.fine_tuned import ADAPT_STEPS, STEPS
from fewshot.learners.learners import (
    REGRESSORS,
    has_custom_loss,
    learner_named,
    supports_regression,
)
from fewshot.learners.reinforcement.world_learners import WORLD_LEARNERS
from orchestrator.config.checks.model_checks import check_model
from orchestrator.config.checks.worker_checks import check_workers
from orchestrator.config.checks.world_checks import check_worlds
from orchestrator.config.plan import rungs_of
from orchestrator.config.sections.config import Config
from orchestrator.config.sections.own_loop import AnyConfig, OwnLoopConfig
from orchestrator.config.sections.space import RangeSection, WeightsSection
from orchestrator.config.sections.tasks import TaskSection
from orchestrator.config.spaces import space_of
from trials.programs.teachers import EPISODIC_HEADS, TRAINED


def cross_check(config: AnyConfig) -> list[ErrorDetail]:
    """All errors between the sections of a config, for each of its searched options."""
    variants = [config.variant(values) for values in config.representatives()]
    details = _check_own_loop(config) if isinstance(config, OwnLoopConfig) else _check_parts(config)
    if any(len(rungs_of(variant)) != len(rungs_of(config)) for variant in variants):
        rule = "is too low in one of its options: two of its rungs are the same step."
        details.append(ErrorDetail("steps", rule, min(v.steps for v in variants)))
    details += _check_search(config, first=not details)
    return details + check_workers(config, first=not details)


def _check_own_loop(config: OwnLoopConfig) -> list[ErrorDetail]:
    details = _check_weights(config.space.task_weights, config.train_names())
    if (weights_as := config.space.task_weights.weights_as) != "loss":
        rule = "is not used: the training function decides what the weights weigh."
        place = "space.task_weights.weights_as"
        details.append(ErrorDetail(place, rule, weights_as, "Remove it."))
    return details


def _check_parts(config: Config) -> list[ErrorDetail]:
    """The errors between the sections that describe data, model and learner."""
    variants = [config.variant(values) for values in config.representatives()]
    read = {name for variant in variants for name in variant.readable_scalars()}
    unread = sorted(config.space.scalars().keys() - read)
    details = [
        replace(d, path=config.placed(d.path, values))
        for values, variant in zip(config.representatives(), variants, strict=True)
        for d in _check_variant(variant, unread)
    ]
    # Most errors occur in each variant.
    return list({(d.path, d.rule, repr(d.found)): d for d in details}.values())


def _check_variant(config: Config, unread: Sequence[str]) -> list[ErrorDetail]:
    """The errors of a plain config. unread: the scalars that no variant reads."""
    if config.adapts and config.teacher is None and config.tasks.train:
        return [ErrorDetail("learner", "is needed to train on `tasks.train`.")]
    searched = config.space.task_weights.search or any(
        isinstance(value, RangeSection) for value in config.space.scalars().values()
    )
    if config.steps == 0 and searched:
        rule = "must be above 0 if anything is searched: with 0 steps nothing is trained."
        return [ErrorDetail("steps", rule, 0)]
    return (
        _check_tasks(config)
        + check_model(config)
        + _check_teacher(config)
        + _check_space(config, unread)
        + _check_use_of_weights(config)
        + _check_weights(config.space.task_weights, config.train_names())
    )


def _check_search(config: AnyConfig, *, first: bool) -> list[ErrorDetail]:
    """Check the number of trials, and, if there was no error before (`first`), the box."""
    details = []
    trials, references = config.search.trials, config.search.reference_trials
    if references > trials:
        rule = f"must not exceed search.trials = {trials}."
        details.append(ErrorDetail("search.reference_trials", rule, references))
    if config.search.stop and config.search.sampler != "fewtune":
        rule = "needs `search.sampler: fewtune`, whose model estimates the expected gain."
        remedy = "Remove `search.stop` or `search.sampler`."
        details.append(ErrorDetail("search.stop", rule, config.search.stop, remedy))
    if first and not details:
        try:
            space_of(config).reference()
        except ValueError as error:  # the prior is too far from uniform weights for the box
            width = config.space.task_weights.half_width
            details.append(
                ErrorDetail("space.task_weights.half_width", f"is too small: {error}", width)
            )
    return details


def _check_tasks(config: Config) -> list[ErrorDetail]:
    details = []
    if config.adapts and (config.tasks.train or len(config.tasks.validation) != 1):
        rule = "must be one validation task and no training tasks, because there is no `learner`."
        details.append(ErrorDetail("tasks", rule))
    if not config.adapts and not config.tasks.train:
        details.append(ErrorDetail("tasks.train", "needs at least one task."))
    if "world" in config.kinds:
        return details + check_worlds(config)
    details += _check_learner_of_rows(config) + _check_numbers(config) + _check_shapes(config)
    details += _check_scales(config)
    tasks = config.all_tasks()
    of_rows = any(isinstance(task, TaskSection) for task in tasks.values())
    if of_rows and not config.datasets:
        return [*details, ErrorDetail("datasets", "must not be empty.")]
    if config.datasets and not of_rows and not details:
        rule = "is not used, because all tasks are functions."
        details.append(ErrorDetail("datasets", rule, None, "Remove it."))
    for place, task in tasks.items():
        if isinstance(task, TaskSection) and task.dataset not in config.datasets:
            rule = f"must be one of {', '.join(config.datasets)}."
            details.append(ErrorDetail(f"{place}.dataset", rule, task.dataset))
    return details


def _check_learner_of_rows(config: Config) -> list[ErrorDetail]:
    learner = config.learner
    if learner is None or learner.name not in WORLD_LEARNERS:
        return []
    rule = "learns worlds only: `tasks: {train: [{world: ..}], ..}`."
    return [ErrorDetail("learner.name", rule, learner.name)]


def _check_scales(config: Config) -> list[ErrorDetail]:
    """Check that features are scaled by a learner: a student takes them as they are."""
    rule = "is not used without a `learner`."
    return [
        ErrorDetail(f"datasets.{name}.scale", rule, part.options()["scale"], "Remove it.")
        for name, part in config.datasets.items()
        if config.adapts and part.source == "table" and "scale" in part.options()
    ]


def _check_shapes(config: Config) -> list[ErrorDetail]:
    """Check that shapes are fixed if there are numbers, a teacher, or only one new task."""
    shapes, numbers = config.episodes, "regression" in config.kinds
    taught = config.adapts or config.teacher is not None
    where = (
        "tasks have numbers" if numbers else "there is a teacher, or only one new task is learned"
    )
    details = [
        ErrorDetail(f"episodes.{name}", f"must be a single number if {where}.", list(count))
        for name in ("shot", "query", *(() if numbers else ("way",)))
        if (numbers or taught) and isinstance(count := getattr(shapes, name), tuple)
    ]
    if config.kinds == {"regression"} and shapes.way is not None:
        rule = "is not used, because no task has classes."
        details.append(ErrorDetail("episodes.way", rule, shapes.way, "Remove it."))
    return details


def _check_numbers(config: Config) -> list[ErrorDetail]:
    """Check the learner of regression tasks.

    It must support regression, or, if there are classification tasks too, use embeddings.
    """
    if "regression" not in config.kinds:
        return []
    if config.learner is None:
        return [ErrorDetail("teacher", "can't be used without a `learner` if tasks have numbers.")]
    name = config.learner.name
    learner = learner_named(name)
    embeds = not learner.model_scores_classes
    if supports_regression(learner) or (len(config.kinds) > 1 and embeds):
        return []
    rule = f"must be one of {', '.join(sorted(REGRESSORS))} to learn numbers."
    return [ErrorDetail("learner.name", rule, name)]


def _check_teacher(config: Config) -> list[ErrorDetail]:
    teacher, learner = config.teacher, config.learner
    if teacher is None:
        rule = "is not used without a `teacher`."
        return (
            [ErrorDetail("distillation", rule, None, "Remove it.")] if config.distillation else []
        )
    details = []
    if learner is not None and has_custom_loss(learner_named(learner.name)):
        rule = "must be a learner whose loss can include a teacher; this one has its own update."
        details.append(ErrorDetail("learner.name", rule, learner.name))
    if learner is not None and teacher.head not in (None, *EPISODIC_HEADS):
        rule = f"must be one of {', '.join(EPISODIC_HEADS)} together with a `learner`."
        remedy = "A logistic regression is fitted to one task at a time."
        details.append(ErrorDetail("teacher.head", rule, teacher.head, remedy))
    if learner is not None and "regression" in config.kinds and teacher.source not in TRAINED:
        rule = f"must be one of {', '.join(TRAINED)} if tasks have numbers."
        details.append(ErrorDetail("teacher.source", rule, teacher.source))
    if config.kinds == {"regression"} and config.distillation:
        rule = "is not used for numbers: their distillation loss is the squared error."
        details.append(ErrorDetail("distillation", rule, None, "Remove it."))
    return details


def _check_space(config: Config, unread: Sequence[str]) -> list[ErrorDetail]:
    given = config.space.scalars()
    return (
        _check_adapt_steps(config)
        + [
            ErrorDetail(
                f"space.{name}", "is needed.", None, "Give a number, or {low: .., high: ..}."
            )
            for name in sorted(set(config.hyperparameters()) - given.keys())
        ]
        + [
            ErrorDetail(
                f"space.{name}", "is not used by any part of this search.", None, "Remove it."
            )
            for name in unread
        ]
    )


def _check_adapt_steps(config: Config) -> list[ErrorDetail]:
    """Check that the steps are at most those that the learner has room for."""
    value = config.space.scalars().get(STEPS)
    if value is None or STEPS not in config.hyperparameters() or config.learner is None:
        return []
    low, high = (value.low, value.high) if isinstance(value, RangeSection) else (value, value)
    most = config.learner.options().get("adapt_steps", ADAPT_STEPS)
    if low >= 0 and high <= most:
        return []
    rule = f"must be from 0 to learner.adapt_steps = {most}."
    return [ErrorDetail(f"space.{STEPS}", rule, [low, high], "Raise `learner.adapt_steps`.")]


def _check_use_of_weights(config: Config) -> list[ErrorDetail]:
    """Check that the learner and the episodes can use the weights as the config says."""
    details = []
    weights = config.space.task_weights
    options = {} if config.learner is None else config.learner.options()
    if weights.weights_as == "sampling" and "per_task" in options.values():
        rule = "must be loss if tasks have parameters of their own, which are trained together."
        place = "space.task_weights.weights_as"
        details.append(ErrorDetail(place, rule, weights.weights_as))
    if config.episodes.per_step is not None and weights.weights_as != "sampling":
        rule = "needs `space: {task_weights: {weights_as: sampling}}`: each task has a loss term."
        details.append(ErrorDetail("episodes.per_step", rule, config.episodes.per_step))
    return details


def _check_weights(weights: WeightsSection, names: Sequence[str]) -> list[ErrorDetail]:
    """Check that given weights are those of the training tasks."""
    details = []
    for key in ("prior", "fixed"):
        for name in sorted((getattr(weights, key) or {}).keys() - set(names)):
            remedy = f"Training tasks: {', '.join(names) or 'none'}."
            place = f"space.task_weights.{key}.{name}"
            details.append(ErrorDetail(place, "is not a training task.", None, remedy))
    if weights.prior is not None:
        rule = "must be above 0: a prior has a positive weight for every training task."
        for name in names:
            if not weights.prior.get(name):
                place = f"space.task_weights.prior.{name}"
                details.append(ErrorDetail(place, rule, weights.prior.get(name)))
    return details
