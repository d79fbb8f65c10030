"""Trials whose parameters come from a user or from an earlier search."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fewshot.errors.inputs import ErrorDetail, InputError, did_you_mean
from orchestrator.record.study import StudiedTrial
from orchestrator.space.search_space import SearchSpace, Values
from orchestrator.space.simplex import Simplex


def params_of(
    space: SearchSpace,
    weights: Mapping[str, Any] | None,
    hyperparameters: Mapping[str, Any],
    trials: Sequence[StudiedTrial],
) -> Values:
    """The parameters of a trial that a user describes.

    weights: by task, with sum 1; tasks that are not in it have weight zero. hyperparameters: by
    name. What is not given is that of the best of `trials`, or of the reference if none has ended.

    Raises InputError with all errors.
    """
    details = _check_hyperparameters(space, hyperparameters)
    encoded: Values = {}
    if weights is not None:
        found = _check_weights(space, weights)
        details += found
        if not found and isinstance(space.weights, Simplex):
            try:
                encoded = space.weights.encode({k: float(v) for k, v in weights.items()})
            except ValueError as error:
                details.append(ErrorDetail("weights", f"can't be a trial: {error}"))
    if details:
        raise InputError(details)
    scored = [t for t in trials if t.state == "complete" and not math.isnan(t.score)]
    best = max(scored, key=lambda trial: trial.score, default=None)
    rest = space.rate_design(1, 0)[0] if best is None else best.params
    return space.complete({**rest, **hyperparameters, **encoded})


def by_name(space: SearchSpace, params: Mapping[str, Any]) -> Values:
    """The searched parameters, and the weights as `lambda/<task>` if they are searched."""
    _, weights = space.decode(params)
    found = {name: params[name] for name in space.parameters() if name in params}
    if isinstance(space.weights, Simplex):
        found |= {f"lambda/{task}": weight for task, weight in weights.items()}
    return found


def _check_hyperparameters(space: SearchSpace, values: Mapping[str, Any]) -> list[ErrorDetail]:
    details, searched = [], space.parameters()
    for name, value in values.items():
        if name in space.fixed:
            rule = f"is not searched: it is {space.fixed[name]:g} in all trials."
            details.append(ErrorDetail(name, rule, value, "Omit it."))
        elif name not in searched:
            known = ", ".join(searched) or "none"
            remedy = f"{did_you_mean(name, searched)}Searched are: {known}."
            details.append(
                ErrorDetail(name, "is not a hyperparameter of this search.", None, remedy)
            )
        elif not searched[name].contains(value):
            rule = f"must be {searched[name]}."
            details.append(ErrorDetail(name, rule, value, "The ranges of a search are fixed."))
    return details


def _check_weights(space: SearchSpace, weights: Mapping[str, Any]) -> list[ErrorDetail]:
    if not isinstance(space.weights, Simplex):
        rule = "can't be given, because this search does not search task weights."
        return [ErrorDetail("weights", rule, dict(weights), "Omit them.")]
    tasks = space.weights.tasks
    details = [
        ErrorDetail(
            f"weights.{task}",
            "is not a training task.",
            None,
            f"{did_you_mean(task, tasks)}Training tasks: {', '.join(tasks)}.",
        )
        for task in weights
        if task not in tasks
    ]
    details += [
        ErrorDetail(f"weights.{task}", "must be a number of at least 0.", weight)
        for task, weight in weights.items()
        if not _is_number(weight) or weight < 0
    ]
    if not details and not math.isclose(sum(weights.values()), 1.0, abs_tol=1e-6):
        details.append(ErrorDetail("weights", "must sum to 1.", sum(weights.values())))
    return details


def _is_number(value: object) -> bool:
    is_real = isinstance(value, int | float) and not isinstance(value, bool)
    return is_real and math.isfinite(value)  # type: ignore[arg-type]
