"""Omniglot under Vinyals' split with rotations, with a fixed number of training seconds on a CPU.

1200 characters for training and 423 for the test; four rotations of each character are separate
classes; 14x14 pixels. A convolutional ProtoNet learns from 60-way episodes, as in its paper, and is
tested on 600 episodes with 15 queries per class. The papers train for hours and reach 98.8, 99.7,
96.0 and 98.9 per cent.
"""

from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from papers_episodes import one_pool, seed_by_seed
from papers_protonet import embed, scored
from papers_protonet import train as train_protonet
from tidy import Row
from torch import Tensor

from fewshot.functional import Params
from fewshot.models.convolution.conv import Conv
from fewshot.tasks.pictures import images

SIZE = 14
WAY, QUERY = 60, 3  # of the training episodes; the paper uses 60 and 5
# Decays linearly to zero. Chosen on the 172 validation characters, which were held out then.
RATE = 6e-3
TEST_QUERY = 15


Split = tuple[
    Tensor, np.ndarray
]  # images (n, 14, 14) in all rotations, codes (n,) of their classes


@cache
def splits() -> tuple[Split, Split]:
    """The training split and the test split."""
    path = "${FEWTUNE_DATA}/omniglot/omniglot28.npz"
    data = images.load(path=path, cache=Path(), size=SIZE)
    inputs = torch.cat([torch.rot90(data.inputs, turns, (1, 2)) for turns in range(4)])
    character = data.columns["char"].to_numpy().astype(np.int64)
    labels = np.concatenate([4 * character + turns for turns in range(4)])
    tested = np.tile(data.columns["char_vinyals_split"].to_numpy() == "test", 4)
    mask = torch.from_numpy(tested)
    return (inputs[~mask], labels[~tested]), (inputs[mask], labels[tested])


@cache
def _trained(seed: int, seconds: float) -> tuple[Conv, Params, int]:
    """A model, its parameters after `seconds` of CPU time, and the number of steps taken."""
    train = one_pool(*splits()[0], way=WAY, shot=1, query=QUERY)
    model = Conv(features=(SIZE, SIZE))
    params, steps = train_protonet(model, train, way=WAY, rate=RATE, seconds=seconds, seed=seed)
    return model, params, steps


def _problem(name: str, way: int, shot: int, seed: int, quick: bool) -> list[Row]:
    seconds = 20.0 if quick else 100.0
    model, params, steps = _trained(seed, seconds)
    test = splits()[1]
    embedded = embed(model, params, test[0], 4096)
    sizes = {"way": way, "shot": shot, "query": TEST_QUERY}
    return scored(name, embedded, test, **sizes, seed=seed, budget=(seconds, steps))


PROBLEMS = {
    (name := f"omniglot_{way}w{shot}s"): partial(seed_by_seed, partial(_problem, name, way, shot))
    for way in (5, 20)
    for shot in (1, 5)
}
