"""Trains a ProtoNet for a fixed CPU time, then scores it beside the class means of its inputs."""

import sys
import time

import numpy as np
import torch
from papers_episodes import accuracies, one_pool, rows_of, untrained
from tidy import Row, row
from torch import Tensor

from fewshot.functional import Params
from fewshot.learners.metric.protonet import ProtoNet
from fewshot.metrics import Estimate
from fewshot.models.base import Model
from fewshot.tasks.pool import TaskPool
from trials.lanes.optimizers import adam
from trials.lanes.step.draws import draws
from trials.lanes.step.gradient import gradient_of
from trials.programs.meta_training.objective import MetaTraining
from trials.programs.meta_training.task_group import TaskGroup


def train(
    model: Model, pool: TaskPool, *, way: int, rate: float, seconds: float, seed: int
) -> tuple[Params, int]:
    """The parameters after `seconds` of CPU time, and the number of steps of one episode each.

    rate: decays linearly to zero.
    """
    # One lane of the objective that searches use.
    objective = MetaTraining([TaskGroup(ProtoNet(model=model, way=way), pool, {})], 1)
    params = {name: value[None] for name, value in objective.init(seed).items()}
    moments = adam.zeros_like(params)
    gradient = gradient_of(objective)
    seeds, weights = torch.tensor([seed]), torch.ones(1, 1)
    begun, steps = time.process_time(), 0
    endless = draws(objective.draw, seeds, torch.tensor([0]), weights, sys.maxsize)
    while (used := (time.process_time() - begun) / seconds) < 1:
        grads, _ = gradient(params, next(endless), {}, weights)
        steps += 1
        now = torch.tensor([rate * (1 - used)])
        adam.update_(params, grads, moments, torch.tensor([steps]), now)
    return {name: value[0] for name, value in params.items()}, steps


def scored(
    name: str,
    embedded: Tensor,
    split: tuple[Tensor, np.ndarray],
    *,
    way: int,
    shot: int,
    query: int,
    seed: int,
    budget: tuple[float, int],
) -> list[Row]:
    """The rows of one problem.

    embedded: (n, d), the embeddings of the images of `split`; an embedding does not depend on the
    episode, so it is computed once. budget: the CPU seconds and the steps of the training.
    """
    inputs, labels = split
    found = {}
    for variant, features in (("prototypes", inputs), ("protonet", embedded)):
        test = one_pool(features, labels, way=way, shot=shot, query=query)
        found |= accuracies({variant: untrained("protonet", way)}, test, seed)
    return rows_of(name, found, "prototypes") + [
        row("papers", name, "protonet", metric, Estimate(float(value), 0.0, 1))
        for metric, value in zip(("cpu_seconds", "episodes"), budget, strict=True)
    ]


@torch.no_grad()
def embed(model: Model, params: Params, inputs: Tensor, at_once: int) -> Tensor:
    """Embeddings (n, d) of inputs (n, ...), `at_once` at a time."""
    return torch.cat([model.apply(params, part) for part in inputs.split(at_once)])
