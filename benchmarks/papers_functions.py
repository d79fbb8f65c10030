"""The sinusoids of the MAML paper: regression from ten points after one to ten gradient steps.

Finn, Abbeel and Levine (ICML 2017): A sin(x - b), ten points of support, two hidden layers of 40,
25 tasks per update, one inner step at a rate of 0.01, Adam at 0.001, 70,000 updates (2,000 with
--quick), 600 test tasks. The seeds are trained in parallel, each in one lane; intervals are over
seeds and tasks.

The inner rate is that of the paper's text; its code uses 0.001 by default. Training uses ten query
points, as the paper does. The test uses a hundred, where the paper's code uses ten.
"""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tidy import Row, figure, row

from fewshot.episodes import Episode
from fewshot.kinds import REGRESSION
from fewshot.tasks.functions import FAMILIES, function_pool
from orchestrator.search.finals.intervals import interval
from trials.contract import Component, Recipe, TaskSpec, TrialSpec
from trials.programs.build import build
from trials.programs.factories import build_learner

PROBLEM = "maml_sinusoid_k10"
VARIANTS = ("maml", "fomaml", "anil", "meta_sgd")
HYPERPARAMETERS = {"lr/outer": 1e-3, "lr/inner": 0.01, "lr/adapt": 0.01}
SINUSOID = (TaskSpec(name="sinusoid", function="sinusoid"),)
RECIPE = Recipe(
    program="meta_training",
    datasets={},
    tasks={"train": SINUSOID, "validation": SINUSOID, "test": SINUSOID},
    model=Component(name="mlp", options={"hidden": [40, 40]}),
    learner=Component(name="maml"),
    way=1,
    shot=10,
    query=10,
    episodes=25,
    validation_episodes=10,
    test_episodes=10,
)
TEST_EPISODES, TEST_QUERY, STEPS = 600, 100, range(1, 11)
TRAINED_FOR = {"meta_sgd": (1,)}  # rates learned for one step diverge after more steps


def _sinusoid(seeds: int, quick: bool) -> Iterator[Row]:
    """Mean squared error (lower is better) after each step, and updates per CPU-second."""
    trained = {"seed": 0 if seeds == 1 else f"0 to {seeds - 1}"}
    for variant in VARIANTS:
        recipe = replace(RECIPE, learner=Component(name=variant))
        lanes, speed = _trained(recipe, 2_000 if quick else 70_000, seeds)
        for steps in TRAINED_FOR.get(variant, STEPS):
            errors = _errors(recipe, lanes, steps)
            mse = interval(errors, of_tasks=True)
            yield row("papers", PROBLEM, variant, f"mse_{steps}_step", mse, n=errors.size) | trained
        yield figure("papers", PROBLEM, variant, "updates_per_cpu_second", speed) | trained


PROBLEMS = {PROBLEM: _sinusoid}


def _trained(
    recipe: Recipe, updates: int, seeds: int
) -> tuple[list[dict[str, torch.Tensor]], float]:
    """Parameters of each seed, and the updates per CPU-second of all of them together."""
    with tempfile.TemporaryDirectory(prefix="fewtune-") as folder:
        program = build(recipe, lanes=seeds, folder=Path(folder), cache=Path(folder))
        specs = [
            TrialSpec(
                number=seed,
                seed=seed,
                recipe=recipe,
                hyperparameters=HYPERPARAMETERS,
                task_weights={"sinusoid": 1.0},
                rungs=(updates,),
            )
            for seed in range(seeds)
        ]
        for spec in specs:
            program.admit(spec)
        begun = time.process_time()
        program.advance()
        speed = updates * seeds / (time.process_time() - begun)
        return [program.parameters(spec.key) for spec in specs], speed


def _errors(recipe: Recipe, lanes: list[dict[str, torch.Tensor]], steps: int) -> np.ndarray:
    """Mean squared errors (seeds, episodes) after `steps` steps, on the same tasks."""
    name = recipe.learner.name
    adapting = replace(recipe, learner=Component(name=name, options={"adapt_steps": steps}))
    model = build_learner(adapting, (1,), recipe.way)
    pool = function_pool(["sinusoid"], [FAMILIES["sinusoid"]], shot=recipe.shot, query=TEST_QUERY)
    device = next(iter(lanes[0].values())).device
    drawn = pool.draw(torch.tensor(1_000_003, device=device), TEST_EPISODES)
    episodes = Episode(*(part[0] for part in drawn))
    hyper = {key: torch.tensor(value, device=device) for key, value in HYPERPARAMETERS.items()}
    with torch.no_grad():
        rows = [
            REGRESSION.losses(model.logits(params, episodes, hyper), episodes.query_y).mean(-1)
            for params in lanes
        ]
    return torch.stack(rows).double().cpu().numpy()
