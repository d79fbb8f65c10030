"""The training loss and the scores of a policy for worlds.

L(theta) = sum_i lambda_i * mean_e L_ie(theta) over the problems e of each world i. L_ie is the loss
of a policy gradient, in units of the spread of the world's returns under random actions. The
trajectories that it learns from depend on theta: a draw gives only keys, and the loss rolls out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewshot.episodes import fixed
from fewshot.errors.inputs import ErrorDetail, InputError, input_error
from fewshot.errors.parts import as_input_error
from fewshot.functional import Hyperparameters, Params
from fewshot.learners.reinforcement.base import WorldLearner
from fewshot.learners.reinforcement.world_learners import SUPPLIED, WORLD_LEARNERS, model_shape
from fewshot.models.models import MODELS
from fewshot.randomness import fold
from fewshot.registry import options_of, resolve
from fewshot.tasks.base import episode_keys
from fewshot.worlds.base import Actions, World
from fewshot.worlds.references import References, references_of
from fewshot.worlds.worlds import world_of
from trials.contract import Component, Recipe, Stage, TaskSpec
from trials.lanes.objective import NOTHING, TaskScores
from trials.lanes.step.mapping import over_lanes
from trials.programs.factories import build_part

# The random stream of the problems that score each stage.
_STREAMS: Mapping[Stage, int] = {"search": 1, "final": 2, "test": 3}
_AT_ONCE = 64  # problems that are scored in one pass


@dataclass(frozen=True, eq=False)
class Named:
    """A world with its name as a task, and what its returns are compared with."""

    name: str
    world: World
    references: References


class WorldTraining:
    """The `Objective` of worlds.

    episodes: problems of each training world in a step. held_out: for each stage the worlds, the
    number of problems of each, and the key of their draw.
    """

    captured = False
    learning_rate = "lr/outer"

    def __init__(
        self,
        learner: WorldLearner,
        train: tuple[Named, ...],
        held_out: Mapping[Stage, tuple[tuple[Named, ...], int, Tensor]],
        episodes: int,
    ) -> None:
        self.learner, self._train, self._held_out = learner, train, held_out
        self._episodes = episodes
        self.hyperparameters = learner.hyperparameters
        self.tasks = tuple(one.name for one in train)

    @property
    def held_out_worlds(self) -> tuple[Named, ...]:
        """The validation worlds."""
        return self._held_out["search"][0]

    @property
    def spreads(self) -> dict[str, float]:
        """For each training world the number that its losses are divided by."""
        return {one.name: one.references.spread for one in self._train}

    def init(self, seed: int, hyperparameters: Mapping[str, float] = NOTHING) -> Params:
        return self.learner.init(torch.Generator().manual_seed(seed))

    def draw(self, seeds: Tensor, steps: Tensor, weights: Tensor) -> Tensor:
        """The keys (l, t, n) of the problems."""
        return episode_keys(fold(seeds, steps), len(self._train), self._episodes)

    def batch(self, drawn: Tensor) -> Tensor:
        return drawn

    def embed(self, params: Params, batch: Tensor) -> Tensor:
        return batch

    def loss(
        self, params: Params, batch: Tensor, hyper: Hyperparameters, weights: Tensor
    ) -> Tensor:
        losses = [
            self.learner.meta_losses(params, one.world, one.references.spread, keys, hyper).mean()
            for one, keys in zip(self._train, batch.unbind(0), strict=True)
        ]
        return (weights * torch.stack(losses)).sum()

    def score(self, params: Params, hyper: Hyperparameters, stage: Stage) -> list[TaskScores]:
        if stage not in self._held_out:
            return []
        worlds, n, key = self._held_out[stage]
        keys = episode_keys(key, len(worlds), n)
        return [
            self._scores(one, params, own, hyper)
            for one, own in zip(worlds, keys.unbind(0), strict=True)
        ]

    def _scores(
        self, one: Named, params: Params, keys: Tensor, hyper: Hyperparameters
    ) -> TaskScores:
        def returns(params: Params, keys: Tensor, hyper: Hyperparameters) -> Tensor:
            return self.learner.adapt(params, one.world, keys, hyper)[1]

        of_lanes = over_lanes(returns, shared=1)
        parts = [of_lanes(params, own, hyper) for own in keys.split(_AT_ONCE)]
        found = torch.cat(parts, 1)  # (l, n, k + 1)
        metrics = {f"return_{k}": found[..., k].double().mean(1) for k in range(found.shape[-1])}
        if found.shape[-1] > 1:
            metrics["worse"] = (found[..., -1] < found[..., 0]).double().mean(1)
        return TaskScores(one.name, one.references.skill(found[..., -1]), metrics, of_problems=True)


def world_training(
    recipe: Recipe, cache: Path, device: torch.device, *unused: Any
) -> WorldTraining:
    """The objective of a recipe of worlds.

    Raises InputError with all errors of all worlds, or if their observations or actions differ.
    """
    del cache, unused  # nothing is loaded
    named = _named(recipe)
    first = next(one for worlds in named.values() for one in worlds).world
    learner = learner_of(recipe, first.actions, first.n_observation)
    key = torch.tensor(recipe.seed, device=device)
    stages: tuple[tuple[Stage, str, int], ...] = (
        ("search", "validation", recipe.validation_episodes),
        ("final", "validation", recipe.test_episodes),
        ("test", "test", recipe.test_episodes),
    )
    held_out = {
        stage: (named[split], n, fold(key, _STREAMS[stage]))
        for stage, split, n in stages
        if named.get(split)
    }
    return WorldTraining(learner, named.get("train", ()), held_out, recipe.episodes)


def _named(recipe: Recipe) -> dict[str, tuple[Named, ...]]:
    """The worlds of each split."""
    details: list[ErrorDetail] = []
    named: dict[str, list[Named]] = {}
    shapes: dict[tuple[Actions, int], str] = {}
    for split, specs in recipe.tasks.items():
        for spec in specs:
            path = f"tasks.{split}.{spec.name}"
            try:
                one = _named_world(spec, path, scored=split != "train")
            except InputError as error:
                details += error.details
                continue
            named.setdefault(split, []).append(one)
            shapes.setdefault((one.world.actions, one.world.n_observation), path)
    if len(shapes) > 1:
        rule = "must all have the same actions and as many numbers in an observation."
        found = {path: f"{shape[0]}, {shape[1]} numbers" for shape, path in shapes.items()}
        details.append(ErrorDetail("tasks", rule, found))
    if details:
        raise InputError(details)
    return {split: tuple(worlds) for split, worlds in named.items()}


def _named_world(spec: TaskSpec, path: str, *, scored: bool) -> Named:
    assert spec.world is not None, "all tasks of the recipe are worlds"
    with as_input_error(path, "its problems can't be played"):
        world = world_of(spec.world.name, spec.world.options, path)
        return Named(spec.name, world, references_of(world, path, scored=scored))


def learner_of(recipe: Recipe, actions: Actions, n_observation: int) -> WorldLearner:
    """The learner of a recipe, for policies of the given shapes."""
    part = recipe.learner
    factory = resolve(WORLD_LEARNERS, part.name, "learner.name")
    features, n_out = model_shape(part.name, part.options, actions, n_observation)
    model = build_part(MODELS, recipe.model, "model", features=features, n_out=n_out)
    if model.n_out != n_out:
        rule = f"must have {n_out} outputs."
        raise input_error("model", rule, model.n_out, "Leave `n_out` out.")
    given = {
        "model": model,
        "actions": actions,
        "n_observation": n_observation,
        "shot": fixed(recipe.shot),
        "query": fixed(recipe.query),
    }
    taken = options_of(factory, ()).keys()
    own = {name: given[name] for name in SUPPLIED if name in taken}
    learner: WorldLearner = build_part(WORLD_LEARNERS, part, "learner", **own)
    return learner


def untrained_policy(recipe: Recipe) -> Recipe:
    """The recipe of a policy without meta-training, which still adapts to each problem.

    A learner that reads rates is replaced by a policy gradient with the rate of MAML's paper.
    """
    learner = recipe.learner
    if len(WORLD_LEARNERS[learner.name].hyperparameters) > 1:  # type: ignore[attr-defined]
        kept = options_of(WORLD_LEARNERS["policy_gradient"], SUPPLIED)
        options = {name: value for name, value in learner.options.items() if name in kept}
        learner = Component(name="policy_gradient", options=options)
    return replace(recipe, learner=learner, tasks={**recipe.tasks, "train": ()})
