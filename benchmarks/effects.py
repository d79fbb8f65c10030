"""Measures whether a search's explanation is right about the effects of the training tasks.

    python benchmarks/effects.py [PROBLEM ...] [--trials N] [--noise X] [--seeds N] [--quick]
        [--json FILE]

Each search is the real one on a known landscape, as in search_quality.py; `equal_8` has eight equal
tasks. `coverage`: the part of the 95 % intervals that contain the true effect. `told`: the part of
the effects with a verdict. `wrong`: the part with a verdict of the wrong sign. `error`: the mean
distance of an effect from the true one, in points. The interval of each is over searches.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from search_quality import LANES, Case, plan, search
from search_quality_landscapes import PROBLEMS, Landscape, equal
from simulated_trials import SimulatedTrials
from tidy import row, show, write

from fewshot.metrics import estimate
from orchestrator.results.explanation.effects import mixtures, with_share
from orchestrator.results.explanation.explanation import explain
from orchestrator.results.leaderboard import summarise
from orchestrator.sampling.sampler import coordinates_of

METRICS = ("coverage", "told", "wrong", "error")


KNOWN = {**PROBLEMS, "equal_8": partial(equal, 8)}


def measured(case: tuple[str, int], trials: int, noise: float) -> list[float]:
    """The metrics of one search, in the order of METRICS."""
    torch.set_num_threads(1)
    problem, seed = case
    landscape = KNOWN[problem](np.random.default_rng(seed))
    made = plan(landscape.space, Case(problem, noise, "fewtune", trials, seed))
    records = search(made, SimulatedTrials(landscape, noise, LANES))
    effects = explain(made, records, summarise("quality", records)).effects
    ended = [t for t in records.search.trials() if t.state != "failed"]
    shares = coordinates_of(made.space).points([t.params for t in ended]).shares
    every = mixtures(shares, np.zeros(0)).shares
    true = np.array([true_effect(landscape, every, i) for i in range(len(effects))])
    mean, low, high = np.array([[e.effect.mean, e.effect.low, e.effect.high] for e in effects]).T
    told = (low > 0) | (high < 0)
    wrong = told & (np.sign(mean) != np.sign(np.round(true, 9)))
    inside = (low <= true) & (true <= high)
    return [*(float(x.mean()) for x in (inside, told, wrong)), 100 * float(abs(mean - true).mean())]


def true_effect(landscape: Landscape, every: np.ndarray, task: int) -> float:
    """The mean over mixtures (m, n) of what a share of .1 of the task changes."""
    absent = with_share(every, task, 0.0)
    present = with_share(absent, task, 0.1)
    pairs = zip(absent, present, strict=True)
    return float(np.mean([landscape.of_weights(b) - landscape.of_weights(a) for a, b in pairs]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("problems", nargs="*", metavar="PROBLEM", help=", ".join(KNOWN))
    parser.add_argument("--trials", type=int, default=48)
    parser.add_argument("--noise", type=float, default=0.02)
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--quick", action="store_true", help="2 seeds of three problems")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    quick = ["sparse_8", "saturating_12", "equal_8"]
    problems = options.problems or (quick if options.quick else list(KNOWN))
    seeds = 2 if options.quick else options.seeds
    one = partial(measured, trials=options.trials, noise=options.noise)
    found: dict[str, list[Sequence[float]]] = {}
    cases = list(product(problems, range(seeds)))
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for i, (case, values) in enumerate(zip(cases, pool.map(one, cases), strict=True)):
            found.setdefault(case[0], []).append(values)
            print(f"\r{i + 1} of {len(cases)} searches", end="", file=sys.stderr)
    rows = [
        row("effects", problem, "fewtune", name, estimate(torch.tensor(values).double()[:, i]))
        for problem, values in found.items()
        for i, name in enumerate(METRICS)
    ]
    print(file=sys.stderr)
    show(rows)
    if options.json:
        write(options.json, rows, ("optuna", "torch"))


if __name__ == "__main__":
    main()
