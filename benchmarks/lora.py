"""Searches the training tasks of a LoRA model, then compares it with its references.

    python benchmarks/lora.py [--seeds N] [--fold 01] [--quick] [--json FILE] [--home DIR]

The config is configs/lora.yaml: BANKING77's classes of one fold of ProtAugment are the target, 21
groups of intents are the training pool, of which ten have shuffled labels. For each seed a search
is run. Then all retrainings of its best candidate, those of the best trial with uniform weights,
and the encoder without training are scored on the same test episodes, 5-way and 15-way 1-shot.
`gain` is the paired difference of the candidate and a reference; its interval treats episodes and
retrainings as random. Needs FEWTUNE_DATA and `make minilm`.
"""

import argparse
import json
import math
import os
import time
from dataclasses import replace
from pathlib import Path

import torch
from tidy import Row, figure, row, show, write
from torch import Tensor

from fewshot.functional import Params
from fewshot.metrics import Estimate, estimate
from orchestrator.config.loading import data_of, load_config, parse
from orchestrator.config.plan import plan_of
from orchestrator.config.sections.config import Config
from orchestrator.launch import run
from orchestrator.record.home import Home
from orchestrator.record.search_records import read_records
from orchestrator.results.retrained import Finalist
from trials.contract import Recipe
from trials.lanes import checkpoint
from trials.lanes.objective import Objective
from trials.programs.build import PROGRAMS

CONFIG = Path(__file__).parent.parent / "configs" / "lora.yaml"
SPLITS = "banking77/class_splits_protaugment.json"
WAYS = (5, 15)


def main() -> None:
    options = _options()
    home, rows = Home.at(options.home), list[Row]()
    for seed in range(options.seeds):
        found = measured(config(options.fold, seed, quick=options.quick), home, options.quick)
        show(found)
        rows += [one | {"seed": seed, "fold": options.fold} for one in found]
    if options.json:
        write(options.json, rows, ("torch", "transformers", "optuna"))


def config(fold: str, seed: int, *, quick: bool) -> Config:
    """The shipped config with the classes of a fold."""
    path = Path(os.environ["FEWTUNE_DATA"]) / SPLITS
    splits = json.loads(path.read_text(encoding="utf-8"))[fold]
    data = data_of(load_config(CONFIG))
    for split, classes in (("train", "train"), ("validation", "valid"), ("test", "test")):
        data["tasks"][split][0]["where"]["label"] = sorted(splits[classes])
    data |= {"name": f"lora_{fold}_{seed}", "seed": seed}
    if quick:
        data["steps"] = 20
        data["search"] |= {"trials": 4, "reference_trials": 2, "finalists": 1, "seeds": 2}
    return parse(data)


def measured(asked: Config, home: Home, quick: bool) -> list[Row]:
    """The tidy rows of one search; accuracies in per cent."""
    start = time.process_time()
    summary = run(asked, home, placement="inline").summary
    seconds = time.process_time() - start
    candidate, uniform = summary.candidate, summary.uniform
    assert candidate is not None, "the search has just ended"
    assert uniform is not None, "the search has just ended"
    problem, rows = f"banking77_{asked.name.split('_')[1]}", list[Row]()
    rows.append(figure("lora", problem, "search", "cpu_seconds", seconds))
    exported = float(summary.best is not None and summary.best.role != "untrained")
    rows.append(figure("lora", problem, "search", "trained_exported", exported))
    for way in WAYS:
        recipe = replace(plan_of(asked).recipe, way=way, test_episodes=50 if quick else 600)
        objective = PROGRAMS["meta_training"](recipe, home.cache, torch.device("cpu"))
        scored = {
            "searched": _scored(objective, _retrainings(asked, home, candidate)),
            "uniform": _scored(objective, _retrainings(asked, home, uniform)),
            "untrained": _scored(objective, [_initial(objective, recipe)]),
        }
        name = f"{problem}_{way}w1s"
        for variant, accuracies in scored.items():
            rows.append(row("lora", name, variant, "accuracy", estimate(accuracies.mean(0))))
        for reference in ("uniform", "untrained"):
            gain = scored["searched"].mean(0) - scored[reference].mean(0)
            rows.append(row("lora", name, f"over_{reference}", "gain", _with_seeds(gain, scored)))
    return rows


def _with_seeds(gain: Tensor, scored: dict[str, Tensor]) -> Estimate:
    """The mean of paired gains (e,); its error has a part of the episodes and one of the seeds."""
    of_seeds = scored["searched"].mean(1)
    found = estimate(gain)
    of_training = of_seeds.std().item() / len(of_seeds) ** 0.5
    return found._replace(standard_error=math.hypot(found.standard_error, of_training))


def _retrainings(asked: Config, home: Home, finalist: Finalist) -> list[Params]:
    """The models of a finalist, one for each seed."""
    records = read_records(asked.name, home)
    assert records is not None, "the search has just ended"
    return [
        checkpoint.parameters(checkpoint.path_of(home.checkpoints(asked.name), _key(trial.number)))
        for trial in records.final.trials()
        if finalist.is_of(trial) and trial.state == "complete"
    ]


def _key(number: int) -> str:
    return f"final-{number:04d}"


def _initial(objective: Objective, recipe: Recipe) -> Params:
    return objective.init(recipe.seed)


def _scored(objective: Objective, models: list[Params]) -> Tensor:
    """Accuracies (models, episodes) in per cent on the test episodes."""
    stacked = {name: torch.stack([model[name] for model in models]) for name in models[0]}
    hyper = {name: torch.ones(len(models)) for name in objective.hyperparameters}
    with torch.no_grad():
        (scores,) = objective.score(stacked, hyper, "test")
    chance = 1 / _way(objective)
    return 100 * (scores.skill * (1 - chance) + chance)


def _way(objective: Objective) -> int:
    (part,) = objective.parts  # type: ignore[attr-defined]
    pool, _, _ = part.held_out["test"]
    return int(pool.way)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="searches, each with another seed")
    parser.add_argument("--fold", default="01", help="of ProtAugment's five, 01 to 05")
    parser.add_argument("--quick", action="store_true", help="a few short trials")
    parser.add_argument("--home", metavar="DIR", help="state of the searches [fewtune-runs]")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


if __name__ == "__main__":
    main()
