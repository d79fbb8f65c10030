"""Counter-based random numbers: a pure function of a seed and counters, on any device.

Nothing is stored and nothing advances, so the draw of any (seed, step, task, episode) can be made
again, in any order, alone or among thousands. The hash is SplitMix64's finaliser (Steele, Lea and
Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014) over wrapping int64.
"""

import torch
from torch import Tensor

_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


def _shift_right(z: Tensor, bits: int) -> Tensor:
    """Logical shift: int64 is signed, so what the sign drags in is masked away."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift_right(z, 30)) * _MIX_1
    z = (z ^ _shift_right(z, 27)) * _MIX_2
    return z ^ _shift_right(z, 31)


def fold(key: Tensor, counter: Tensor | int) -> Tensor:
    """A new key for each (key, counter), int64; shapes broadcast."""
    if isinstance(counter, int):
        # Filled on the device: a number that came from the host would wait for it.
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


def distinct(key: Tensor, count: Tensor, n: int) -> Tensor:
    """n distinct integers in [0, count), in random order; shape key.shape + (n,).

    count: int64, broadcast against `key`, each at least 1. Where it is below n, all of its integers
    come first, and negative ones behind. The cost depends on n alone, not on how many there are to
    choose from (Floyd's algorithm: Bentley and Floyd, CACM 1987).
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
    """n categories in ascending order, int64, key.shape + (n,), as many of each as it has shares.

    shares: key.shape + (t,), >= 0, in any unit. A category of share p is drawn n * p times on
    average, and never a whole time more or less; one without a share never. By systematic sampling:
    n points at equal distances, from one random start, in the inverse of the cumulated shares.
    """
    edges = shares.double().cumsum(-1)
    starts = torch.arange(n, device=key.device) + uniform(key, 1).double()
    return torch.searchsorted(edges, starts / n * edges[..., -1:], right=True)
