"""Checks of the kinds of workers: their options exist, and each trial has a worker."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from fewshot.errors.inputs import ErrorDetail, did_you_mean
from orchestrator.config.sections.own_loop import AnyConfig, OwnLoopConfig
from orchestrator.config.sections.workers import WorkersSection
from orchestrator.config.spaces import space_of
from orchestrator.space.choices import Choice, WholeRange, may_be
from orchestrator.space.search_space import SearchSpace


def check_workers(config: AnyConfig, *, first: bool) -> list[ErrorDetail]:
    """All errors of `search.workers`; those of `only` if there was no error before (`first`)."""
    kinds = config.search.kinds
    details = _check_resources(config) if kinds else []
    if not (first and kinds):
        return details
    space = space_of(config)
    wrong = [d for i, kind in enumerate(kinds) for d in _check_only(i, kind, space.choices)]
    return details + (wrong or _check_covered(kinds, space))


def _check_resources(config: AnyConfig) -> list[ErrorDetail]:
    search = config.search
    details = [
        ErrorDetail(
            f"search.{key}",
            "is not used: each kind of `search.workers` has its own.",
            getattr(search, key),
            f"Write `{key.partition('_')[0]}` there.",
        )
        for key, usual in (("cpus_per_worker", 1), ("gpus_per_worker", None))
        if getattr(search, key) != usual
    ]
    rule = "must be at most 1: only a training function of your own can use several GPUs."
    return details + [
        ErrorDetail(f"search.workers.{i}.gpus", rule, kind.gpus)
        for i, kind in enumerate(search.kinds)
        if kind.gpus > 1 and not isinstance(config, OwnLoopConfig)
    ]


def _check_only(
    number: int, kind: WorkersSection, choices: Mapping[str, Choice | WholeRange]
) -> list[ErrorDetail]:
    details = []
    for name, values in (kind.only or {}).items():
        place = f"search.workers.{number}.only.{name}"
        if name not in choices:
            known = ", ".join(choices) or "none"
            remedy = f"{did_you_mean(name, choices)}Searched options: {known}."
            details.append(ErrorDetail(place, "is not a searched option.", None, remedy))
        elif wrong := [value for value in values if not choices[name].contains(value)]:
            details.append(ErrorDetail(place, f"must list {choices[name]}.", wrong))
    return details


def _check_covered(kinds: Sequence[WorkersSection], space: SearchSpace) -> list[ErrorDetail]:
    """Check that some kind may train the trials of each combination of options."""
    named = {name for kind in kinds for name in kind.only or {}}
    named |= {condition.of for name in named for condition in space.conditions.get(name, ())}
    names = sorted(named)
    for values in product(*(_distinct(name, kinds, space.choices[name]) for name in names)):
        trial = space.active(dict(zip(names, values, strict=True)))
        if not any(may_be(kind.conditions, trial) for kind in kinds):
            which = ", ".join(f"{name}: {value}" for name, value in trial.items())
            rule = f"has no kind of workers for trials with {which}."
            remedy = "Add these options to `only` of a kind, or add a kind without `only`."
            return [ErrorDetail("search.workers", rule, None, remedy)]
    return []


def _distinct(name: str, kinds: Sequence[WorkersSection], option: Choice | WholeRange) -> list[Any]:
    """The values of an option that the kinds name, and one of those that none of them names."""
    if isinstance(option, Choice):
        every: Sequence[Any] = option.options
    else:
        every = range(option.low, option.high + 1, option.step)
    listed = {value for kind in kinds for value in (kind.only or {}).get(name, ())}
    others = [value for value in every if value not in listed]
    return [value for value in every if value in listed] + others[:1]
