"""The plan of a search: its recipe, its space, its trial specs."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from orchestrator.config.recipes import recipe_of
from orchestrator.config.sections.own_loop import AnyConfig
from orchestrator.config.spaces import space_of
from orchestrator.space.search_space import SearchSpace
from trials.contract import Recipe, Stage, TrialSpec

# The recipe and the rungs for values of the searched options.
Variants = Callable[[Mapping[str, Any]], tuple[Recipe, tuple[int, ...]]]


@dataclass(frozen=True)
class Plan:
    """Everything that a search needs to know; independent of YAML.

    recipe, rungs: those of the plain config. variants: those of a trial, if options of the recipe
    are searched. All trials have the same number of rungs; the study records the scores of all of
    them at `rungs`.
    """

    name: str
    seed: int
    recipe: Recipe
    space: SearchSpace
    rungs: tuple[int, ...]
    eta: float
    trials: int
    reference_trials: int
    finalists: int
    seeds: int
    trial_seed: int | None
    task_sizes: Mapping[str, int] | None = None
    sampler: str = "fewtune"
    variants: Variants | None = field(default=None, compare=False)
    has_test: bool = True  # False only for an own loop without test tasks
    may_stop_early: bool = False

    def spec(
        self,
        number: int,
        hyperparameters: Mapping[str, float],
        task_weights: Mapping[str, float],
        choices: Mapping[str, Any] = MappingProxyType({}),
        *,
        attempt: int = 0,
        stage: Stage = "search",
        seed: int | None = None,
    ) -> TrialSpec:
        """The spec of a trial; `seed` is derived from the search seed, stage and number if None.

        choices: the values of the searched options.
        """
        trial_seed = derived_seed(self.seed, stage, number) if seed is None else seed
        recipe, rungs = self.recipe, self.rungs
        if self.variants is not None:
            recipe, rungs = self.variants(choices)
        return TrialSpec(
            number=number,
            stage=stage,
            attempt=attempt,
            seed=trial_seed,
            recipe=recipe,
            hyperparameters=dict(hyperparameters),
            task_weights=dict(task_weights),
            rungs=rungs if stage == "search" else rungs[-1:],
            choices=dict(choices),
        )

    def trial(self, number: int, params: Mapping[str, Any], **fields: Any) -> TrialSpec:
        """The spec of a trial with the parameters that its study has."""
        return self.spec(number, *self.space.decode(params), self.space.chosen(params), **fields)

    def rung(self, spec: TrialSpec, step: int) -> int:
        """The step at which the study records the score of a trial at its own `step`."""
        return self.rungs[len(self.rungs) - len(spec.rungs) + spec.rungs.index(step)]


def derived_seed(*parts: int | str) -> int:
    """A seed in [0, 2^31) that depends on all of `parts`."""
    text = "/".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def plan_of(config: AnyConfig) -> Plan:
    """The plan of `config`."""
    return Plan(
        name=config.name,
        seed=config.seed,
        recipe=recipe_of(config),
        space=space_of(config),
        rungs=rungs_of(config),
        eta=config.search.eta,
        trials=config.search.trials,
        reference_trials=config.search.reference_trials,
        finalists=config.search.finalists,
        seeds=config.search.seeds,
        trial_seed=config.trial_seed,
        has_test=bool(config.tasks.test),
        variants=_variants(config) if config.searched else None,
        sampler=config.search.sampler,
        may_stop_early=config.search.stop == "auto",
    )


def rungs_of(config: AnyConfig) -> tuple[int, ...]:
    """The steps at which a trial of the plain config is scored, ascending."""
    steps = config.steps
    before = {max(1, round(share * steps)) for share in config.search.rungs}
    return (*sorted(rung for rung in before if rung < steps), steps)


def _variants(config: AnyConfig) -> Variants:
    known: dict[tuple[tuple[str, Any], ...], tuple[Recipe, tuple[int, ...]]] = {}

    def variant(values: Mapping[str, Any]) -> tuple[Recipe, tuple[int, ...]]:
        key = tuple(sorted(values.items()))
        if key not in known:
            chosen = config.variant(values)
            known[key] = recipe_of(chosen), rungs_of(chosen)
        return known[key]

    return variant


def recipes_of(config: AnyConfig) -> list[tuple[Mapping[str, Any], Recipe]]:
    """Different recipes, such that each searched option occurs; the first is the plain config's.

    Each comes with the values of the searched options that choose it.
    """
    found: dict[str, tuple[Mapping[str, Any], Recipe]] = {}
    for values in config.representatives():
        recipe = recipe_of(config.variant(values))
        found.setdefault(recipe.fingerprint, (values, recipe))
    return list(found.values())
