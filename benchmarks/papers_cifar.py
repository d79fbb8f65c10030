"""CIFAR-FS with a fixed number of training seconds on a CPU, from 100 images per class.

CIFAR-FS has 64, 16 and 20 classes of CIFAR-100 for training, validation and test (Bertinetto,
Henriques, Torr and Vedaldi, "Meta-learning with differentiable closed-form solvers", ICLR 2019). A
ProtoNet with four convolutional blocks learns from 20-way episodes and is tested on 600 5-way
episodes with 15 queries per class. The blocks normalise by groups, so each query is embedded alone.
They have 32 channels, which reach more in this time than the 64 of the papers. Papers report 55.5
per cent for 5-way 1-shot; they train for hours on 600 images per class.
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

WAY, QUERY = 20, 5  # of the training episodes
WIDTH, NORM = 32, "group"
RATE = 3e-3  # decays linearly to zero; chosen on the 16 validation classes
TEST_WAY, TEST_QUERY = 5, 15


@cache
def split(name: str) -> tuple[Tensor, np.ndarray]:
    """Images (n, 3, 32, 32) and codes (n,) of their classes; training images also mirrored."""
    data = images.load(path="${FEWTUNE_DATA}/cifar100/cifar100.npz", cache=Path())
    chosen = (data.columns["cifar_fs"] == name).to_numpy()
    inputs = data.inputs[torch.tensor(chosen)]
    labels = np.unique(data.columns["label"].to_numpy()[chosen], return_inverse=True)[1]
    if name != "train":
        return inputs, labels
    return torch.cat([inputs, inputs.flip(-1)]), np.tile(labels, 2)


@cache
def _trained(seed: int, seconds: float) -> tuple[Conv, Params, int]:
    """A model, its parameters after `seconds` of CPU time, and the number of steps taken."""
    train = one_pool(*split("train"), way=WAY, shot=1, query=QUERY)
    model = Conv(features=train.features, width=WIDTH, blocks=4, norm=NORM)
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


def _problem(name: str, shot: int, seed: int, quick: bool) -> list[Row]:
    seconds = 40.0 if quick else 200.0
    model, params, steps = _trained(seed, seconds)
    inputs, labels = split("test")
    # The embedding of a query does not depend on the episode, so it is computed once.
    with torch.no_grad():
        embedded = torch.cat([model.apply(params, part) for part in inputs.split(256)])
    found = {}
    for variant, features in (("prototypes", inputs), ("protonet", embedded)):
        test = one_pool(features, labels, way=TEST_WAY, shot=shot, query=TEST_QUERY)
        found |= accuracies({variant: untrained("protonet", TEST_WAY)}, test, seed)
    budget = [
        row("papers", name, "protonet", metric, Estimate(value, 0.0, 1))
        for metric, value in (("cpu_seconds", seconds), ("episodes", float(steps)))
    ]
    return rows_of(name, found, "prototypes") + budget


PROBLEMS = {
    (name := f"cifar_fs_5w{shot}s"): partial(seed_by_seed, partial(_problem, name, shot))
    for shot in (1, 5)
}
