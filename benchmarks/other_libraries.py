"""Compares training steps per second with libraries that run the same model, batch and gradient.

    pip install --no-deps --target others torchopt optree graphviz easyfsl torchvision
    PYTHONPATH=others python benchmarks/other_libraries.py [PROBLEM ...] [--quick] [--json FILE]

`maml_sinusoid_k10`: second-order MAML on 25 sinusoids per update. fewtune processes all of them in
one pass; TorchOpt processes them task by task, as in its own few-shot example.
`protonet_omniglot_*`, `protonet_cifar_conv`: a ProtoNet on four episodes per update. fewtune
processes them in one pass, easyfsl one by one; needs FEWTUNE_DATA. All libraries learn from
fewtune's draws (easyfsl's sampler uses a function that torch 2.13 has removed). torchvision must be
the release that belongs to torch. The libraries run in turns, each on one thread; a
ratio compares speeds of the same turn. `fewtune_lanes` is eight trials in lanes; the other
libraries have no equivalent.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import tidy
import torch
from papers_cifar import split
from papers_episodes import one_pool
from papers_functions import HYPERPARAMETERS
from papers_omniglot import SIZE, splits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from fewshot.kinds import REGRESSION
from fewshot.learners.base import Learner
from fewshot.learners.gradient.maml import MAML
from fewshot.learners.metric.protonet import ProtoNet
from fewshot.metrics import estimate
from fewshot.models.base import Model
from fewshot.models.convolution.conv import Conv
from fewshot.models.mlp import MLP
from fewshot.randomness import fold
from fewshot.tasks.base import Pool
from fewshot.tasks.functions import FAMILIES, function_pool
from trials.lanes.optimizers import adam
from trials.lanes.step.capture import Captured
from trials.lanes.step.draws import draws
from trials.lanes.step.gradient import gradient_of
from trials.programs.meta_training.objective import MetaTraining
from trials.programs.meta_training.task_group import TaskGroup

Step = Callable[[], object]  # one update
Images = tuple[Tensor, np.ndarray]  # (n, ...) and the codes (n,) of their classes
TASKS, LANES = 25, 8  # sinusoids per update; trials of `fewtune_lanes`
WAY, SHOT, QUERY, EPISODES, WIDTH, N_OUT = 5, 1, 5, 4, 32, 64
SECONDS = 4.0  # CPU-seconds per turn


def ours(learner: Learner, train: Pool, episodes: int, lanes: int = 1) -> Step:
    """A step of `trials.lanes.lanes`, without its checkpoints and reports."""
    objective = MetaTraining([TaskGroup(learner, train, {})], episodes)
    fresh = [objective.init(seed) for seed in range(lanes)]
    params = {name: torch.stack([one[name] for one in fresh]) for name in fresh[0]}
    moments = adam.zeros_like(params)
    gradient = gradient_of(objective)
    hyper = {name: torch.full((lanes,), HYPERPARAMETERS[name]) for name in learner.hyperparameters}
    seeds, weights = torch.arange(lanes), torch.ones(lanes, 1)
    steps = torch.zeros(lanes, dtype=torch.int64)
    endless = draws(Captured(objective.draw), seeds, steps, weights, sys.maxsize)

    def step() -> None:
        grads, _ = gradient(params, next(endless), hyper, weights)
        steps.add_(1)
        adam.update_(params, grads, moments, steps, hyper["lr/outer"])

    return step


def sinusoids() -> dict[str, Step]:
    model = MLP(features=(1,), hidden=(40, 40), n_out=1)
    learner = MAML(model=model, way=1, kind=REGRESSION)
    train = function_pool(["sinusoid"], [FAMILIES["sinusoid"]], shot=10, query=10)
    found = {
        "fewtune": ours(learner, train, TASKS),
        "fewtune_lanes": ours(learner, train, TASKS, LANES),
    }
    return found | ({"torchopt": _torchopt(train)} if find_spec("torchopt") else {})


def _torchopt(train: Pool) -> Step:
    """A step as in TorchOpt's examples/few-shot/maml_omniglot.py, on our sinusoids."""
    import torchopt

    net = nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1))
    inner = torchopt.MetaSGD(net, lr=HYPERPARAMETERS["lr/inner"])
    outer = torch.optim.Adam(net.parameters(), lr=HYPERPARAMETERS["lr/outer"])
    count = iter(range(1 << 60))

    def step() -> None:
        drawn = train.draw(fold(torch.tensor(0), next(count)), TASKS)
        outer.zero_grad()
        start = torchopt.extract_state_dict(net, by="reference")
        begun = torchopt.extract_state_dict(inner, by="reference")
        losses = []
        for support_x, support_y, query_x, query_y in zip(*(p[0] for p in drawn), strict=True):
            inner.step(mse_loss(net(support_x), support_y))
            losses.append(mse_loss(net(query_x), query_y))
            torchopt.recover_state_dict(net, start)
            torchopt.recover_state_dict(inner, begun)
        torch.stack(losses).mean().backward()
        outer.step()

    return step


def prototypes(
    images: Images, model: Model, backbone: nn.Module, *, lanes: bool = True
) -> dict[str, Step]:
    """Steps of the same model on the same images in both libraries.

    lanes: false if fewtune trains the lanes of this model one after the other.
    """
    train = one_pool(*images, way=WAY, shot=SHOT, query=QUERY)
    learner = ProtoNet(model=model, way=WAY)
    found = {"fewtune": ours(learner, train, EPISODES)}
    if lanes:
        found["fewtune_lanes"] = ours(learner, train, EPISODES, LANES)
    return found | ({"easyfsl": _easyfsl(train, backbone)} if find_spec("easyfsl") else {})


def _mlp() -> dict[str, Step]:
    layers = (nn.Flatten(), nn.Linear(SIZE**2, 128), nn.ReLU(), nn.Linear(128, N_OUT))
    return prototypes(splits()[0], MLP(features=(SIZE, SIZE), n_out=N_OUT), nn.Sequential(*layers))


def _conv() -> dict[str, Step]:
    blocks: list[nn.Module] = []
    for n_in in (1, WIDTH, WIDTH):
        blocks += [nn.Conv2d(n_in, WIDTH, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    flat = WIDTH * (SIZE >> 3) ** 2
    net = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(flat, N_OUT))
    model = Conv(features=(SIZE, SIZE), width=WIDTH, n_out=N_OUT)
    return prototypes(splits()[0], model, net)


def _cifar() -> dict[str, Step]:
    """The network of `papers_cifar`, in colour and with normalisation."""
    blocks: list[nn.Module] = []
    for n_in in (3, WIDTH, WIDTH, WIDTH):
        convolution = nn.Conv2d(n_in, WIDTH, 3, padding=1, bias=False)
        blocks += [convolution, nn.GroupNorm(8, WIDTH), nn.ReLU(), nn.MaxPool2d(2)]
    net = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(WIDTH * 2 * 2, N_OUT))
    model = Conv(features=(3, 32, 32), width=WIDTH, blocks=4, norm="group", n_out=N_OUT)
    return prototypes(split("train"), model, net, lanes=False)


def _easyfsl(train: Pool, backbone: nn.Module) -> Step:
    """A step as in easyfsl's notebook on episodic training, one episode at a time."""
    from easyfsl.methods import PrototypicalNetworks

    net = PrototypicalNetworks(backbone)
    outer = torch.optim.Adam(net.parameters(), lr=HYPERPARAMETERS["lr/outer"])
    count = iter(range(1 << 60))

    def step() -> None:
        drawn = train.draw(fold(torch.tensor(0), next(count)), EPISODES)
        outer.zero_grad()
        for support_x, support_y, query_x, query_y in zip(*(p[0] for p in drawn), strict=True):
            net.process_support_set(_with_channels(support_x), support_y)
            (cross_entropy(net(_with_channels(query_x)), query_y) / EPISODES).backward()
        outer.step()

    return step


def _with_channels(x: Tensor) -> Tensor:
    """Images (n, h, w) as (n, 1, h, w); colour images (n, 3, h, w) as they are."""
    return x.unsqueeze(1) if x.dim() == 3 else x


PROBLEMS: Mapping[str, Callable[[], dict[str, Step]]] = {
    "maml_sinusoid_k10": sinusoids,
    "protonet_omniglot_mlp": _mlp,
    "protonet_omniglot_conv": _conv,
    "protonet_cifar_conv": _cifar,
}


def speed(step: Step, seconds: float) -> float:
    """Steps per CPU-second."""
    begun, steps = time.process_time(), 0
    while (used := time.process_time() - begun) < seconds:
        step()
        steps += 1
    return steps / used


def compared(problem: str, turns: int, seconds: float) -> Iterator[tidy.Row]:
    """Steps per CPU-second of all lanes together, and the ratio of fewtune to each library."""
    steps = PROBLEMS[problem]()
    for step in steps.values():
        speed(step, 0.5)  # the first steps are slow
    measured = [
        {name: speed(step, seconds) * (LANES if name.endswith("lanes") else 1)}
        for _ in range(turns)
        for name, step in steps.items()
    ]
    found = {name: torch.tensor([m[name] for m in measured if name in m]) for name in steps}
    for name, speeds in found.items():
        yield tidy.row("other_libraries", problem, name, "steps_per_cpu_second", estimate(speeds))
    for other in found.keys() - {"fewtune", "fewtune_lanes"}:
        for name in sorted(found.keys() & {"fewtune", "fewtune_lanes"}):
            ratio = estimate(found[name] / found[other])
            yield tidy.row("other_libraries", problem, name, f"times_{other}", ratio)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("problems", nargs="*", metavar="PROBLEM", help=", ".join(PROBLEMS))
    parser.add_argument("--quick", action="store_true", help="turns of one CPU-second")
    parser.add_argument("--seeds", type=int, default=5, help="turns of each library")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    if unknown := set(options.problems) - PROBLEMS.keys():
        parser.error(f"unknown problem {', '.join(sorted(unknown))}; see --help.")
    torch.set_num_threads(1)
    for name in ("torchopt", "easyfsl"):
        if not find_spec(name):
            print(f"{name} is not installed and is skipped: see the top of {Path(__file__).name}.")
    seconds = 1.0 if options.quick else SECONDS
    chosen = options.problems or list(PROBLEMS)
    rows = [row for problem in chosen for row in compared(problem, options.seeds, seconds)]
    tidy.show(rows)
    if options.json:
        installed = [name for name in ("torchopt", "easyfsl") if find_spec(name)]
        tidy.write(options.json, rows, ("torch", *installed))


if __name__ == "__main__":
    main()
