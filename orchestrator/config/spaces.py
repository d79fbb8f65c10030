"""The search space of a config."""

from typing import Any

from orchestrator.config.sections.config import Config
from orchestrator.config.sections.own_loop import (
    AnyConfig,
    ChoiceSection,
    LoggedRangeSection,
    WholeRangeSection,
)
from orchestrator.config.sections.space import RangeSection
from orchestrator.space.choices import Condition
from orchestrator.space.search_space import Range, SearchSpace
from orchestrator.space.simplex import Simplex, shared

_LOG = ("lr/outer", "lr/inner", "lr/adapt", "distill/temperature")


def space_of(config: AnyConfig) -> SearchSpace:
    """The search space of `config`."""
    ranges: dict[str, Range] = {}
    fixed: dict[str, Any] = {}
    searched = config.searched
    choices = {one.name: one.parameter for one in searched}
    for name, value in config.space.scalars().items():
        if isinstance(value, ChoiceSection | WholeRangeSection):
            choices[name] = value.parameter
        elif isinstance(value, LoggedRangeSection):
            ranges[name] = Range(value.low, value.high, log=value.log)
        elif isinstance(value, RangeSection):
            ranges[name] = Range(value.low, value.high, log=name in _LOG)
        else:
            fixed[name] = value
    conditions = {one.name: one.conditions for one in searched if one.conditions}
    if isinstance(config, Config):
        conditions |= _readers(config)
    return SearchSpace(ranges, fixed, _weights(config), choices, conditions)


def _readers(config: Config) -> dict[str, tuple[Condition, ...]]:
    """For each scalar that only some models or learners read: which ones."""
    found: dict[str, tuple[Condition, ...]] = {}
    outermost = [one for one in config.searched if one.name in ("model", "learner")]
    variants = [(v, config.variant(v).readable_scalars()) for v in config.representatives()]
    for one in outermost:
        reads: dict[Any, set[str]] = {value: set() for value in one.values}
        for chosen, scalars in variants:
            reads[chosen.get(one.name, one.first)] |= scalars
        for name in config.space.scalars():
            readers = tuple(value for value, scalars in reads.items() if name in scalars)
            if len(readers) < len(reads):
                found[name] = (*found.get(name, ()), Condition(one.name, readers))
    return found


def _weights(config: AnyConfig) -> Simplex | dict[str, float]:
    names = tuple(config.train_names())
    section = config.space.task_weights
    if section.fixed is not None:
        return {name: section.fixed.get(name, 0.0) for name in names}
    prior = dict.fromkeys(names, 1 / max(1, len(names)))
    if section.prior is not None:  # the user's values need to sum to 1 within 1e-6 only
        prior = {name: section.prior[name] / sum(section.prior.values()) for name in names}
    groups = tuple(config.train_groups())
    if len(set(groups)) < 2 or not section.search:
        return prior
    share = section.zero_below / len(names)
    prior = shared(prior, groups)
    return Simplex(names, tuple(prior.values()), section.half_width, share, groups)
