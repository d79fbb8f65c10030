"""Counter-based random numbers: pure functions of a seed and counters, on any device.

There is no generator state. The draw of any (seed, step, task, episode) can therefore be repeated,
in any order, alone or together with thousands of others. The hash is SplitMix64's finaliser
(Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014) over int64
that wraps around.
"""

import math

import torch
from torch import Tensor

_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


def _shift_right(z: Tensor, bits: int) -> Tensor:
    """Logical right shift; int64 is signed, so the sign bits that shift in are masked out."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift_right(z, 30)) * _MIX_1
    z = (z ^ _shift_right(z, 27)) * _MIX_2
    return z ^ _shift_right(z, 31)


def fold(key: Tensor, counter: Tensor | int) -> Tensor:
    """A new key for each (key, counter), int64; shapes broadcast."""
    if isinstance(counter, int):
        # Created on the device, because a copy from the host would wait for the device.
        counter = torch.full((), counter, dtype=torch.int64, device=key.device)
    return _mix(key ^ _mix((counter + 1) * _GAMMA))


def uniform(key: Tensor, n: int) -> Tensor:
    """Uniform numbers in [0, 1), float32, shape key.shape + (n,)."""
    counters = torch.arange(n, device=key.device)
    bits = _shift_right(fold(key[..., None], counters), 40)
    return bits.float() * 2.0**-24


def integers(key: Tensor, n: int, bound: int) -> Tensor:
    """Uniform integers in [0, bound), int64, shape key.shape + (n,)."""
    return (uniform(key, n) * bound).long().clamp(max=bound - 1)


def normal(key: Tensor, n: int) -> Tensor:
    """Standard normal numbers, float32, shape key.shape + (n,); at most 5.8 in absolute value.

    Box and Muller, "A note on the generation of random normal deviates", 1958.
    """
    radius = (-2 * (1 - uniform(fold(key, 0), n)).log()).sqrt()
    return radius * (2 * math.pi * uniform(fold(key, 1), n)).cos()


def distinct(key: Tensor, count: Tensor, n: int) -> Tensor:
    """n distinct integers in [0, count), in random order; shape key.shape + (n,).

    count: int64, broadcast against `key`, each at least 1. If it is below n, all integers in
    [0, count) come first, followed by negative ones. The cost depends on n and not on `count`
    (Floyd's algorithm: Bentley and Floyd, CACM 1987).
    """
    draws = uniform(fold(key, 0), n)
    chosen: list[Tensor] = []
    for j in range(n):
        last = count - n + j
        pick = (draws[..., j] * (last + 1)).long().clamp(max=last)
        if chosen:
            taken = (torch.stack(chosen, -1) == pick.unsqueeze(-1)).any(-1)
            pick = torch.where(taken, last, pick)
        chosen.append(pick)
    drawn = torch.stack(chosen, -1)
    order = (uniform(fold(key, 1), n) + (drawn < 0)).argsort(-1)
    return drawn.gather(-1, order)


def proportional(key: Tensor, shares: Tensor, n: int) -> Tensor:
    """n categories drawn in proportion to `shares`; ascending, int64, shape key.shape + (n,).

    shares: key.shape + (t,), >= 0, of any sum. A category with relative share p is drawn n * p
    times in expectation, and the actual number differs from n * p by less than one. A category
    with share 0 is never drawn.

    The method is systematic sampling: n equidistant points with a common random start are mapped
    through the inverse of the cumulative shares.
    """
    edges = shares.double().cumsum(-1)
    starts = torch.arange(n, device=key.device) + uniform(key, 1).double()
    return torch.searchsorted(edges, starts / n * edges[..., -1:], right=True)
