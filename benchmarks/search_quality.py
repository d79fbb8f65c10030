"""Measures what searches find on known landscapes of task weights and rates.

    python benchmarks/search_quality.py [PROBLEM ...] [--variants ...] [--trials 24 48]
        [--noise .01 .03] [--seeds N] [--quick] [--json FILE] [--done FILE]

Each search is the real one: its loop, study, sampler, halving and finalists, with the default
settings of a config and four lanes of simulated trials. `regret` is the distance of the answer's
true score from the maximum, in points (hundredths). NAME_N is problem NAME with a standard
deviation of the noise of N hundredths. The problems of RegMix need FEWTUNE_DATA, and are run with
the first noise only. Variants are samplers: the product's own, Optuna's on the same coordinates,
and Optuna's TPE on the coordinates of its FAQ.

All of it takes many hours: `--done FILE` keeps each search that has ended, and a later run with the
same file goes on. The searches of one seed are run before those of the next. Those of docs/log.md
are in `records/search_quality.jsonl`; a change of the sampler makes its own searches there invalid.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import numpy as np
import torch
from search_quality_faq import FaqSimplex
from search_quality_landscapes import PROBLEMS
from simulated_trials import RECIPE, SimulatedTrials
from tidy import Row, row, show, write

from fewshot.metrics import estimate
from orchestrator.config.plan import Plan
from orchestrator.executors.inline import InlineExecutor
from orchestrator.record.search_records import SearchRecords, open_records
from orchestrator.record.studies.study import open_storage
from orchestrator.results.leaderboard import summarise
from orchestrator.search.finals.intervals import Interval
from orchestrator.search.loop import run_search
from orchestrator.space.search_space import SearchSpace
from orchestrator.tracking.mlflow_runs import OutboxRecorder
from orchestrator.tracking.sending.outbox import Outbox

LANES = 4
# The sampler of each variant. `optuna_tpe_faq` has other coordinates, see `search_quality_faq`.
VARIANTS = {
    "fewtune": "fewtune",
    "optuna_gp": "gp",
    "optuna_tpe": "tpe",
    "optuna_tpe_faq": "tpe",
    "optuna_cmaes": "cmaes",
    "random": "random",
}
# The others would take more than five minutes on two cores.
QUICK = ("fewtune", "optuna_tpe", "random")


@dataclass(frozen=True)
class Case:
    """One search: its landscape and noise are drawn from `seed`, the same for all variants."""

    problem: str
    noise: float
    variant: str
    trials: int
    seed: int


def plan(space: SearchSpace, case: Case) -> Plan:
    if case.variant == "optuna_tpe_faq":
        simplex = space.weights
        space = replace(space, weights=FaqSimplex(simplex.tasks, simplex.prior))
    return Plan(
        name="quality",
        seed=case.seed,
        recipe=RECIPE,
        space=space,
        rungs=(30, 60, 100),
        eta=2.0,
        trials=case.trials,
        reference_trials=8,
        finalists=3,
        seeds=3,
        trial_seed=None,
        sampler=VARIANTS[case.variant],
    )


def regret(case: Case) -> tuple[float, float]:
    """The regret of a search's answer, and the CPU seconds that it took."""
    torch.set_num_threads(1)
    landscape = PROBLEMS[case.problem](np.random.default_rng(case.seed))
    start = time.process_time()
    made = plan(landscape.space, case)
    records = search(made, SimulatedTrials(landscape, case.noise, LANES))
    best = summarise(made.name, records).best
    assert best is not None, "no trial fails"
    true = landscape.score(best.hyperparameters, best.task_weights)
    return 100 * (landscape.best - true), time.process_time() - start


def search(made: Plan, trials: SimulatedTrials) -> SearchRecords:
    """The records of a whole search."""
    with (
        tempfile.TemporaryDirectory(prefix="fewtune-") as folder,
        open_storage(str(Path(folder) / "quality.journal")) as storage,
    ):
        records = open_records(made, storage)
        recorder = OutboxRecorder(Outbox(Path(folder) / "outbox"))
        recorder.search_started(
            name="quality", experiment="x", params={}, tags={}, time=time.time()
        )
        run_search(made, records, InlineExecutor(lambda: trials), recorder, task_sizes={})
        records.search.note("state", "complete")
        recorder.close()
    return records


def cases(options: argparse.Namespace) -> list[Case]:
    return [
        Case(problem, noise, variant, trials, seed)
        for seed, trials, problem, noise, variant in product(
            range(options.seeds), options.trials, options.problems, options.noise, options.variants
        )
        if noise == options.noise[0] or not problem.startswith("regmix")
    ]


def kept(path: Path | None) -> dict[Case, tuple[float, float]]:
    """The searches in a file of `--done`."""
    if path is None or not path.exists():
        return {}
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {Case(**line["case"]): (line["regret"], line["cpu"]) for line in lines}


def keep(path: Path, case: Case, found: tuple[float, float]) -> None:
    """Add a search to a file of `--done`."""
    line = {"case": asdict(case), "regret": found[0], "cpu": found[1]}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def rows_of(done: Sequence[tuple[Case, tuple[float, float]]]) -> list[Row]:
    """Median regret with the quartiles' range as interval, and mean CPU seconds."""
    rows = []
    groups: dict[tuple[str, float, str, int], list[tuple[float, float]]] = {}
    for case, found in done:
        key = case.problem, case.noise, case.variant, case.trials
        groups.setdefault(key, []).append(found)
    for (problem, noise, variant, trials), found in groups.items():
        values = torch.tensor(found).double()
        name = f"{problem}_{100 * noise:.0f}"
        rows.append(
            row(
                "search_quality",
                name,
                variant,
                f"regret_{trials}",
                _quartiles(values[:, 0]),
                len(found),
            )
        )
        rows.append(row("search_quality", name, variant, f"cpu_{trials}", estimate(values[:, 1])))
    return rows


def _quartiles(values: torch.Tensor) -> Interval:
    low, middle, high = torch.quantile(values, torch.tensor([0.25, 0.5, 0.75]).double()).tolist()
    return Interval(middle, low, high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("problems", nargs="*", metavar="PROBLEM", help=", ".join(PROBLEMS))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS)
    parser.add_argument("--trials", nargs="+", type=int, default=[24, 48])
    parser.add_argument("--noise", nargs="+", type=float, default=[0.01, 0.03])
    parser.add_argument("--seeds", type=int, default=24)
    parser.add_argument("--quick", action="store_true", help="3 seeds, 24 trials, few variants")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--done", type=Path, metavar="FILE", help="the searches that have ended")
    options = parser.parse_args()
    options.problems = options.problems or list(PROBLEMS)
    known = [v for v in VARIANTS if v != "optuna_cmaes" or find_spec("cmaes")]
    options.variants = options.variants or (QUICK if options.quick else known)
    if options.quick:
        options.seeds, options.trials, options.noise = 3, [24], [0.01]
    all_cases = cases(options)
    before = kept(options.done)
    done = {case: before[case] for case in all_cases if case in before}
    new = [case for case in all_cases if case not in done]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for case, found in zip(new, pool.map(regret, new), strict=True):
            done[case] = found
            if options.done:
                keep(options.done, case, found)
            print(f"\r{len(done)} of {len(all_cases)} searches", end="", file=sys.stderr)
    rows = rows_of([(case, done[case]) for case in all_cases])
    print(file=sys.stderr)
    show(rows)
    if options.json:
        write(options.json, rows, ("optuna", "torch"))


if __name__ == "__main__":
    main()
