"""Trials whose parameters come from a user or from an earlier search."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fewshot.errors.inputs import ErrorDetail, InputError, did_you_mean, input_error
from orchestrator.config.plan import Plan
from orchestrator.record.home import Home
from orchestrator.record.search_records import read_records
from orchestrator.record.studies.study import StudiedTrial, read_study
from orchestrator.space.choices import Choice, WholeRange, is_number
from orchestrator.space.search_space import Range, SearchSpace, Values
from orchestrator.space.simplex import Simplex

FROM = "from_search"  # the note of a study with the trials of an earlier search
_MOST = 4  # trials of an earlier search that are run
# The last trials of a search are often near its best one. A trial is left out if less than this
# share of the weight, and of each range, separates it from a better one.
_ALIKE = 0.05


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
    searched = space.parameters()
    given = {name: searched[name].nearest(value) for name, value in hyperparameters.items()}
    params = space.complete({**rest, **given, **encoded})
    unread = [name for name in given if name not in params]
    if unread:
        rule = "is not read with the options of this trial."
        remedy = "Give the option that reads it."
        raise InputError([ErrorDetail(name, rule, given[name], remedy) for name in unread])
    return params


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
            rule = f"is not searched: it is {space.fixed[name]} in all trials."
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
        if not is_number(weight) or weight < 0
    ]
    if not details and not math.isclose(sum(weights.values()), 1.0, abs_tol=1e-6):
        details.append(ErrorDetail("weights", "must sum to 1.", sum(weights.values())))
    return details


def trials_from(name: str, plan: Plan, home: Home) -> dict[str, Any]:
    """The best trials of the search `name` that fit this search, as the note `FROM` of a study.

    Their scores are not used, because tasks, steps and episodes may differ: they are run again.

    Raises InputError if there is no such search, if no complete trial of it fits, or if this search
    has been started without them.
    """
    study = read_study(home.storage(plan.name), plan.name)
    known = None if study is None else study.notes.get(FROM)
    if known is not None and known["search"] == name:
        return dict(known)
    records = None if name == plan.name else read_records(name, home)
    if study is not None and len(study):
        rule = "is for a new search, and this one was started "
        rule += "without it." if known is None else f"from {known['search']}."
        remedy = "Omit it, or use a different name with `--set name=NAME`."
        raise input_error("--from", rule, name, remedy)
    if name == plan.name:
        raise input_error("--from", "must be the name of another search.", name)
    if records is None:
        details = home.unknown(name).details
        raise InputError(replace(detail, path="--from") for detail in details)
    trials = _fitting(records.search.trials(), plan.space)
    if not trials:
        rule = "has no complete trial with weight on a task of this search."
        raise input_error("--from", rule, name, "Omit it, or use another search.")
    return {"search": name, "trials": trials}


def _fitting(trials: Sequence[StudiedTrial], space: SearchSpace) -> list[dict[str, Any]]:
    """Numbers and parameters of the best trials that are not the reference, best first."""
    scored = [t for t in trials if t.state == "complete" and not math.isnan(t.score)]
    found: list[dict[str, Any]] = []
    for trial in sorted(scored, key=lambda t: (-t.score, t.number)):
        options = {**trial.notes.get("choices", {}), **trial.notes["hyperparameters"]}
        params = _encoded(space, options, trial.notes["task_weights"])
        if params is None or space.is_reference(params):
            continue
        if not any(_alike(space, params, other["params"]) for other in found):
            found.append({"number": trial.number, "params": params})
        if len(found) == _MOST:
            break
    return found


def _alike(space: SearchSpace, a: Values, b: Values) -> bool:
    """Whether two trials differ so little that running both tells hardly more than one."""
    if a.keys() != b.keys():
        return False
    of, (_, left), (_, right) = space.parameters(), space.decode(a), space.decode(b)
    moved = sum(abs(left[task] - right[task]) for task in left) / 2
    return moved < _ALIKE and all(_apart(of[n], a[n], b[n]) < _ALIKE for n in a if n in of)


def _apart(of: Range | Choice | WholeRange, a: Any, b: Any) -> float:
    """The distance of two values as a share of their range; 1 for two options of a choice."""
    if isinstance(of, Choice):
        return float(a != b)
    if isinstance(of, WholeRange):
        return float(abs(a - b) / (of.high - of.low))
    return abs(of.share(a) - of.share(b))


def _encoded(
    space: SearchSpace, hyperparameters: Mapping[str, Any], weights: Mapping[str, float]
) -> Values | None:
    """The nearest parameters of this space; None if all weight is on tasks that it lacks.

    Weights of tasks that it lacks are dropped, and the rest is scaled to sum 1; other tasks get
    zero. Numbers outside a range move to its end; what is new gets the middle of its range.
    """
    known = {
        name: of.nearest(hyperparameters[name])
        for name, of in space.parameters().items()
        if name in hyperparameters and of.accepts(hyperparameters[name])
    }
    middle = {name: of.at(0.5) for name, of in space.parameters().items()}
    params = space.active({**middle, **known})
    if not isinstance(space.weights, Simplex):
        return params
    kept = np.array([weights.get(task, 0.0) for task in space.weights.tasks])
    if kept.sum() <= 0:
        return None
    shares = space.weights.group_shares((kept / kept.sum())[None])[0]
    return params | space.weights.encode_nearest(shares)
