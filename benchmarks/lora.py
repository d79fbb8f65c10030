"""Searches the training tasks of a LoRA model, then compares it with its references.

    python benchmarks/lora.py [--seeds N] [--fold 01] [--pilot] [--quick] [--json FILE]
                              [--home DIR]

The config is configs/lora.yaml: BANKING77's classes of one fold of ProtAugment are the target, 21
groups of intents are the training pool, of which ten have shuffled labels. For each seed a search
is run. Then all retrainings of its best candidate, those of the best trial with uniform weights,
and the encoder without training are scored on the same test episodes, 5-way and 15-way 1-shot.
`gain` is the paired difference of the candidate and a reference; its interval treats episodes and
retrainings as random. Needs FEWTUNE_DATA and `make minilm`.

`--pilot` searches nothing: for each fold it trains one trial on the related task alone (`related`)
and one with uniform weights, both at rate .001, and compares them with the untrained encoder.
"""

import argparse
import json
import math
import os
import tempfile
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
from trials.errors import advance_or_raise
from trials.lanes import checkpoint
from trials.lanes.objective import Objective
from trials.programs.build import PROGRAMS, build

CONFIG = Path(__file__).parent.parent / "configs" / "lora.yaml"
SPLITS = "banking77/class_splits_protaugment.json"
WAYS = (5, 15)
FOLDS = ("01", "02", "03", "04", "05")
RELATED = "banking_train"
RATE = 1e-3


def main() -> None:
    options = _options()
    home, rows = Home.at(options.home), list[Row]()
    for fold in FOLDS if options.pilot else ():
        found = pilot(config(fold, 0, quick=options.quick), home, options.quick)
        show(found)
        rows += [one | {"seed": 0, "fold": fold} for one in found]
    for seed in () if options.pilot else range(options.seeds):
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
    problem = _problem(asked)
    exported = float(summary.best is not None and summary.best.role != "untrained")
    models = {
        "searched": _retrainings(asked, home, candidate),
        "uniform": _retrainings(asked, home, uniform),
    }
    return [
        figure("lora", problem, "search", "cpu_seconds", seconds),
        figure("lora", problem, "search", "trained_exported", exported),
        *_compared(asked, home, models, quick),
    ]


def pilot(asked: Config, home: Home, quick: bool) -> list[Row]:
    """The tidy rows of one trial on the related task, and one on all tasks."""
    names = asked.train_names()
    weights = {
        "related": {name: float(name == RELATED) for name in names},
        "uniform": dict.fromkeys(names, 1 / len(names)),
    }
    trained = {variant: [_trained(asked, home, of)] for variant, of in weights.items()}
    return _compared(asked, home, trained, quick)


def _trained(asked: Config, home: Home, weights: dict[str, float]) -> Params:
    """The model of one trial."""
    plan = plan_of(asked)
    spec = plan.spec(0, {"lr/outer": RATE}, weights, stage="final", seed=0)
    with tempfile.TemporaryDirectory(prefix="fewtune-") as folder:
        program = build(plan.recipe, lanes=1, folder=Path(folder), cache=home.cache)
        program.admit(spec)
        advance_or_raise(program)
        program.release(spec.key, "complete")
        return checkpoint.parameters(checkpoint.path_of(Path(folder), spec.key))


def _compared(asked: Config, home: Home, models: dict[str, list[Params]], quick: bool) -> list[Row]:
    """Accuracies of models on the same test episodes; gains of the first over the others.

    models: of each variant, one for each seed; the untrained encoder is added.
    """
    rows: list[Row] = []
    first = next(iter(models))
    for way in WAYS:
        recipe = replace(plan_of(asked).recipe, way=way, test_episodes=50 if quick else 600)
        objective = PROGRAMS["meta_training"](recipe, home.cache, torch.device("cpu"))
        untrained = {"untrained": [objective.init(recipe.seed)]}
        scored = {name: _scored(objective, of) for name, of in (models | untrained).items()}
        problem = f"{_problem(asked)}_{way}w1s"
        for variant, accuracies in scored.items():
            rows.append(row("lora", problem, variant, "accuracy", estimate(accuracies.mean(0))))
        for reference in ("uniform", "untrained"):
            gain = scored[first].mean(0) - scored[reference].mean(0)
            error = _with_seeds(gain, scored[first])
            rows.append(row("lora", problem, f"over_{reference}", "gain", error))
    return rows


def _problem(asked: Config) -> str:
    return f"banking77_{asked.name.split('_')[1]}"


def _with_seeds(gain: Tensor, accuracies: Tensor) -> Estimate:
    """The mean of paired gains (e,); its error has a part of the episodes and one of the seeds.

    accuracies: (seeds, e). The part of the seeds is unknown for a single one.
    """
    of_seeds = accuracies.mean(1)
    found = estimate(gain)
    if len(of_seeds) == 1:
        return found
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
    parser.add_argument("--pilot", action="store_true", help="two trials of each fold, no search")
    parser.add_argument("--quick", action="store_true", help="a few short trials")
    parser.add_argument("--home", metavar="DIR", help="state of the searches [fewtune-runs]")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


if __name__ == "__main__":
    main()
