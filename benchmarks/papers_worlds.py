"""Reinforcement learning: 2D navigation of the MAML paper, and the bandits of RL squared.

Navigation follows the published code (cbfinn/maml_rl), not the text of the paper: plain distances,
an inner rate of 0.5 and then 0.25, 20 trajectories for a step of training and 40 at the test. It
differs in the optimiser: Adam at 0.01 for 60 steps (20 with --quick) with 20 goals each, instead of
TRPO for 100 steps with 40 goals. It tests on 200 goals instead of 40, as the mean over 40 differs
by some points from one draw of goals to the next. Published, after 0, 1, 2 and 3 steps: -40.4,
-11.7, -3.3 and -3.2. Bandits have five arms and a hundred pulls, of which training has 25;
published: UCB1 78.0, RL squared 78.7.
"""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from tidy import Row, figure, row
from torch import Tensor

from fewshot.functional import Params
from fewshot.metrics import estimate
from fewshot.randomness import fold, uniform
from fewshot.worlds.worlds import world_of
from trials.contract import Component, Recipe, TaskSpec, TrialSpec
from trials.programs.build import build
from trials.programs.worlds.objective import learner_of

GOALS, BANDITS, PULLS = 200, 1000, 100
TRAINED_PULLS = 25  # of a bandit in training, which costs a quarter
NAVIGATION = TaskSpec(name="navigation", world=Component(name="navigation"))
BANDIT = TaskSpec(name="bandit", world=Component(name="bandit"))
RATES = {"lr/outer": 0.01, "lr/inner": 0.5, "lr/adapt": 0.5}
BANDIT_RATE = 0.015
SCALE = 0.2  # of UCB1's bonus; with 1, as published by its authors, it earns 66.3 of 100


def _recipe(task: TaskSpec, learner: Component, **changes: object) -> Recipe:
    made = Recipe(
        program="worlds",
        datasets={},
        tasks=dict.fromkeys(("train", "validation", "test"), (task,)),
        model=Component(name="mlp", options={"hidden": [100, 100]}),
        learner=learner,
        way=1,
        shot=20,
        query=20,
        episodes=20,
        validation_episodes=2,
        test_episodes=2,
    )
    return replace(made, **changes)


def _navigation(seeds: int, quick: bool) -> Iterator[Row]:
    """Mean returns (higher is better) of the goals after 0 to 3 steps, untrained and trained."""
    recipe = _recipe(NAVIGATION, Component(name="maml_pg"))
    for seed in range(seeds):
        for steps, variant in ((0, "untrained"), (20 if quick else 60, "maml_pg")):
            params, seconds = _trained(recipe, steps, seed)
            returns = _returns(replace(recipe, shot=40, query=40), params, GOALS)
            for k in range(returns.shape[-1]):
                found = estimate(returns[:, k])
                named = row("papers", f"navigation_step_{k}", variant, "return", found)
                yield named | {"seed": seed}
            yield figure("papers", "navigation", variant, "cpu_seconds", seconds) | {"seed": seed}


def _bandits(seeds: int, quick: bool) -> Iterator[Row]:
    """Mean rewards of a hundred pulls, of RL squared and of UCB1 on the same bandits."""
    learner = Component(name="rl2", options={"memory": 32})
    linear = Component(name="mlp", options={"hidden": []})
    recipe = _recipe(BANDIT, learner, model=linear, shot=TRAINED_PULLS, query=1, episodes=256)
    yield row("papers", "bandit_k5_n100", "ucb1", "return", estimate(_ucb1()))
    for seed in range(seeds):
        params, seconds = _trained(recipe, 100 if quick else 1760, seed)
        returns = PULLS * _returns(replace(recipe, shot=PULLS), params, BANDITS)[:, 0]
        yield row("papers", "bandit_k5_n100", "rl2", "return", estimate(returns)) | {"seed": seed}
        yield figure("papers", "bandit_k5_n100", "rl2", "cpu_seconds", seconds) | {"seed": seed}


PROBLEMS = {"navigation": _navigation, "bandit_k5_n100": _bandits}


def _trained(recipe: Recipe, steps: int, seed: int) -> tuple[Params, float]:
    """The parameters after meta-training, and its CPU-seconds."""
    with tempfile.TemporaryDirectory(prefix="fewtune-") as folder:
        program = build(recipe, lanes=1, folder=Path(folder), cache=Path(folder))
        (task,) = recipe.tasks["train"]
        spec = TrialSpec(
            number=seed,
            seed=seed,
            recipe=recipe,
            hyperparameters=RATES | ({"lr/outer": BANDIT_RATE} if task == BANDIT else {}),
            task_weights={task.name: 1.0},
            rungs=(steps,),
        )
        started = time.process_time()
        program.admit(spec)
        program.advance()
        return program.parameters(spec.key), time.process_time() - started


def _problems(n: int) -> Tensor:
    """The keys (n,) of the problems that test."""
    return fold(torch.tensor(77), torch.arange(n))


def _returns(recipe: Recipe, params: Params, n: int) -> Tensor:
    """Mean returns (n, k + 1) of the test problems."""
    part = recipe.tasks["test"][0].world
    assert part is not None, "the task is a world"
    world = world_of(part.name, part.options)
    learner = learner_of(recipe, world.actions, world.n_observation)
    hyper = {name: torch.tensor(value) for name, value in RATES.items()}
    with torch.no_grad():
        return learner.adapt(params, world, _problems(n), hyper)[1]


def _ucb1() -> Tensor:
    """The rewards (n,) of a hundred pulls by UCB1: mean + SCALE * sqrt(2 log t / pulls of the arm).

    Auer, Cesa-Bianchi and Fischer, "Finite-time analysis of the multiarmed bandit problem", 2002.
    """
    keys = fold(_problems(BANDITS), 0)
    chances = world_of("bandit", {}).problem(keys)
    luck = uniform(fold(keys, 9), PULLS)
    pulls, wins = torch.zeros_like(chances), torch.zeros_like(chances)
    for t in range(PULLS):
        bonus = SCALE * (2 * torch.tensor(float(max(1, t))).log() / pulls.clamp(min=1)).sqrt()
        bound = torch.where(pulls > 0, wins / pulls.clamp(min=1) + bonus, torch.inf)
        arm = bound.argmax(-1, keepdim=True)
        won = (luck[:, t : t + 1] < chances.gather(-1, arm)).float()
        pulls.scatter_add_(-1, arm, torch.ones_like(won))
        wins.scatter_add_(-1, arm, won)
    return wins.sum(-1)
