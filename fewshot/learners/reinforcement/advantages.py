"""How much better than expected the rewards after each action were."""

import torch
from torch import Tensor
from torch.linalg import solve_ex

from fewshot.worlds.rollout import Rollout

_PENALTY, _MOST = 1e-5, 10.0


def linear_baseline(found: Rollout, returns: Tensor) -> Tensor:
    """The expected returns (h, b, n) of n trajectories of each of b problems.

    A ridge regression of the returns of each problem on the observation o, o^2, t, t^2, t^3 and 1:
    the baseline of Duan, Chen, Houthooft, Schulman and Abbeel, "Benchmarking deep reinforcement
    learning for continuous control", ICML 2016.
    """
    seen = found.observations.clamp(-_MOST, _MOST)
    h, _, n = returns.shape
    time = torch.arange(h, device=seen.device) / 100
    time = time[:, None, None, None].expand(*seen.shape[:-1], 1)
    parts = [seen, seen.square(), time, time.square(), time**3, torch.ones_like(time)]
    x = torch.cat(parts, -1).transpose(0, 1).flatten(1, 2)  # (b, h * n, features)
    own = x * found.alive.transpose(0, 1).flatten(1)[..., None]
    square = own.mT @ x + _PENALTY * torch.eye(x.shape[-1], device=x.device)
    fitted: Tensor = solve_ex(square, own.mT @ returns.transpose(0, 1).flatten(1)[..., None]).result
    expected: Tensor = (x @ fitted).view(-1, h, n).transpose(0, 1)
    return expected


def standardised(advantages: Tensor, alive: Tensor) -> Tensor:
    """Advantages (h, b, n) with mean 0 and deviation 1 over the living steps of each problem."""
    n = alive.sum((0, 2), keepdim=True)
    centred = (advantages - (advantages * alive).sum((0, 2), keepdim=True) / n) * alive
    deviation = (centred.square().sum((0, 2), keepdim=True) / n).sqrt()
    return centred / (deviation + 1e-8)
