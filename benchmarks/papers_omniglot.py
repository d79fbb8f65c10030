"""Omniglot under Vinyals' split with rotations, with a fixed number of training seconds on a CPU.

1200 characters for training and 423 for the test; four rotations of each character are separate
classes; 14x14 pixels. A convolutional ProtoNet learns from 60-way episodes, as in its paper, and is
tested on 600 episodes with 15 queries per class. The papers train for hours and reach 98.8, 99.7,
96.0 and 98.9 per cent.
"""

import sys
import time
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from papers_episodes import accuracies, one_pool, rows_of, seed_by_seed, untrained
from tidy import Row, row
from torch import Tensor

from fewshot.functional import Params
from fewshot.learners.protonet import ProtoNet
from fewshot.metrics import Estimate
from fewshot.models.convolution.conv import Conv
from fewshot.tasks import images
from trials.lanes.optimizers import adam
from trials.lanes.step.draws import draws
from trials.lanes.step.gradient import gradient_of
from trials.programs.meta_training.objective import MetaTraining
from trials.programs.meta_training.task_group import TaskGroup

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
    # One lane of the objective that searches use.
    objective = MetaTraining([TaskGroup(ProtoNet(model=model, way=WAY), train, {})], 1)
    params = {name: value[None] for name, value in objective.init(seed).items()}
    moments = adam.zeros_like(params)
    gradient = gradient_of(objective)
    seeds, weights = torch.tensor([seed]), torch.ones(1, 1)
    begun, steps = time.process_time(), 0
    endless = draws(objective.draw, seeds, torch.tensor([0]), weights, sys.maxsize)
    while (used := (time.process_time() - begun) / seconds) < 1:
        grads, _ = gradient(params, next(endless), {}, weights)
        steps += 1
        rate = torch.tensor([RATE * (1 - used)])
        adam.update_(params, grads, moments, torch.tensor([steps]), rate)
    return model, {name: value[0] for name, value in params.items()}, steps


def _problem(name: str, way: int, shot: int, seed: int, quick: bool) -> list[Row]:
    seconds = 20.0 if quick else 100.0
    model, params, steps = _trained(seed, seconds)
    inputs, labels = splits()[1]
    # The embedding of a query does not depend on the episode, so it is computed once.
    with torch.no_grad():
        embedded = torch.cat([model.apply(params, part) for part in inputs.split(4096)])
    found = {}
    for variant, features in (("prototypes", inputs), ("protonet", embedded)):
        test = one_pool(features, labels, way=way, shot=shot, query=TEST_QUERY)
        found |= accuracies({variant: untrained("protonet", way)}, test, seed)
    budget = [
        row("papers", name, "protonet", metric, Estimate(value, 0.0, 1))
        for metric, value in (("cpu_seconds", seconds), ("episodes", float(steps)))
    ]
    return rows_of(name, found, "prototypes") + budget


PROBLEMS = {
    (name := f"omniglot_{way}w{shot}s"): partial(seed_by_seed, partial(_problem, name, way, shot))
    for way in (5, 20)
    for shot in (1, 5)
}
