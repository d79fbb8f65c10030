"""Measures how often verdicts of searches are right, on known landscapes of task weights.

    python benchmarks/verdicts.py [PROBLEM ...] [--seeds N] [--trials N] [--quick] [--json FILE]

Each search is the real one: its loop, study, sampler, halving, finalists and tests, with four lanes
of simulated trials, ten validation tasks and ten test tasks that respond differently to the
weights. In the problem `equal_8` all weights are equally good.

`better` is the share of searches whose verdict is "better" than uniform weights. `coverage` is the
share whose 95 % interval of the difference contains the true difference, over all possible tasks,
of the chosen candidate and uniform weights.
"""

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from search_quality import LANES, Case, plan, search
from search_quality_landscapes import Landscape, dense, equal, saturating, sparse
from simulated_trials import SimulatedTrials
from tidy import Row, row, show, write

from fewshot.metrics import estimate
from orchestrator.results.leaderboard import summarise

PROBLEMS: Mapping[str, Callable[[np.random.Generator], Landscape]] = {
    "equal_8": lambda rng: equal(8, rng),
    "sparse_8": lambda rng: sparse(8, rng),
    "dense_8": lambda rng: dense(8, rng),
    "saturating_12": lambda rng: saturating(12, rng),
}
NOISE, TASKS, SPREAD = 0.01, 10, 0.05


def searched(problem: str, trials: int, seed: int) -> tuple[float, float, float]:
    """Whether the verdict is "better", whether the interval contains the truth, and its width."""
    torch.set_num_threads(1)
    landscape = PROBLEMS[problem](np.random.default_rng(seed))
    made = plan(landscape.space, Case(problem, NOISE, "fewtune", trials, seed))
    trials_of = SimulatedTrials(landscape, NOISE, LANES, tasks=TASKS, spread=SPREAD, seed=seed)
    summary = summarise(made.name, search(made, trials_of))
    assert summary.candidate is not None, "no trial fails"
    assert summary.uniform is not None, "no trial fails"
    assert summary.difference is not None, "no trial fails"
    true = [
        landscape.score(f.hyperparameters, f.task_weights)
        for f in (summary.candidate, summary.uniform)
    ]
    found = summary.difference
    contains = found.low <= true[0] - true[1] <= found.high
    return float(summary.verdict == "better"), float(contains), 100 * (found.high - found.low)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("problems", nargs="*", metavar="PROBLEM", help=", ".join(PROBLEMS))
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=25)
    parser.add_argument("--quick", action="store_true", help="2 seeds")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    seeds, rows = 2 if options.quick else options.seeds, list[Row]()
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for problem in options.problems or list(PROBLEMS):
            runs = [pool.submit(searched, problem, options.trials, seed) for seed in range(seeds)]
            found = torch.tensor([run.result() for run in runs]).double()
            own = [
                row("verdicts", problem, "fewtune", metric, estimate(found[:, i]))
                for i, metric in enumerate(("better", "coverage", "width"))
            ]
            show(own)
            sys.stdout.flush()
            rows += own
    if options.json:
        write(options.json, rows, ("optuna", "torch"))


if __name__ == "__main__":
    main()
