"""A store of hidden states of texts or images, which are computed once for each example.

States are kept in half precision, without padding. A file of them is mapped into memory, so that
several processes share one copy. An example is found by a 64-bit hash of its token ids or pixels;
among a million examples, the probability that any two have the same hash is 3e-8.
"""

import hashlib
import logging
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fewshot.models.pretrained.encoder import save_tensors

logger = logging.getLogger(__name__)

_BATCH = 64
_AT_ONCE = 512  # rows that are hashed at once
_SEED = 0x5EED  # of the multipliers of the hash


class HiddenStates:
    """The hidden states of texts or images below a layer of a frozen encoder.

    compute: maps token ids (b, length) int64, or pixels, to hidden states (b, length, width).
    counts: maps the same to the number (b,) of states of each example.
    """

    def __init__(
        self,
        compute: Callable[[Tensor], Tensor],
        counts: Callable[[Tensor], Tensor],
        width: int,
    ) -> None:
        self._compute, self._counts, self._width = compute, counts, width
        self._store(_empty(width))  # in ascending order of the keys

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def longest(self) -> int | None:
        """The largest number of states of an example; None if there are none."""
        return int(self._lengths.max()) if len(self) else None

    def fill(self, x: Tensor, cache: Path, source: str) -> None:
        """Add all examples x (n, ...) from a file in `cache`, which is made if it is missing.

        source: identifies the encoder and the layer.
        """
        keys = _hashes(x)
        if not self._unknown(keys).any():
            return
        content = hashlib.sha256(source.encode() + keys.cpu().numpy().tobytes()).hexdigest()[:16]
        path = cache / f"hidden-{content}.safetensors"
        try:
            self._merge(load_file(path))
        except (OSError, KeyError, SafetensorError):  # missing or damaged: computed again
            start = time.perf_counter()
            made = HiddenStates(self._compute, self._counts, self._width)
            made._add(x, keys)
            save_tensors(path, made._stored)
            seconds = time.perf_counter() - start
            logger.info("hidden states n=%d seconds=%.1f path=%s", len(made), seconds, path)
            self._merge(load_file(path))

    def _merge(self, stored: dict[str, Tensor]) -> None:
        """Add the content of a file, which stays mapped into memory if the store was empty."""
        moved = {name: stored[name].to(self._states.device) for name in self._stored}
        if len(self):
            new = self._unknown(moved["keys"])
            moved["starts"] = moved["starts"] + len(self._states)
            moved = {k: v if k == "states" else v[new] for k, v in moved.items()}
            moved = {name: torch.cat([old, moved[name]]) for name, old in self._stored.items()}
        self._store(moved)

    @property
    def _stored(self) -> dict[str, Tensor]:
        columns = {"keys": self._keys, "starts": self._starts, "lengths": self._lengths}
        return columns | {"states": self._states}

    def _store(self, stored: dict[str, Tensor]) -> None:
        order = stored["keys"].argsort()
        self._keys, self._starts = stored["keys"][order], stored["starts"][order]
        self._lengths, self._states = stored["lengths"][order], stored["states"]

    def to(self, device: torch.device) -> None:
        """Move all states."""
        self._store({name: value.to(device) for name, value in self._stored.items()})

    def find(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The first state and the number of states, both (n,) int64, of examples x (n, ...).

        The states of examples that are not in the store are computed and added.
        """
        keys = _hashes(x)
        unknown = self._unknown(keys)
        if unknown.any():
            self._add(x[unknown], keys[unknown])
        places = self._places(keys)
        return self._starts[places], self._lengths[places]

    def _unknown(self, keys: Tensor) -> Tensor:
        if not len(self):
            return torch.ones_like(keys, dtype=torch.bool)
        return self._keys[self._places(keys)] != keys

    def _places(self, keys: Tensor) -> Tensor:
        return torch.searchsorted(self._keys, keys).clamp(max=max(0, len(self) - 1))

    def gather(self, starts: Tensor, lengths: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """States (n, length, width) float32, and which of them are real, (n, length) bool.

        starts, lengths: see `find`. Padding has the states of other tokens.
        """
        ahead = torch.arange(length, device=starts.device)
        rows = (starts[:, None] + ahead).clamp(max=len(self._states) - 1)
        states = self._states.index_select(0, rows.flatten()).float()
        return states.view(*rows.shape, self._width), ahead < lengths[:, None]

    @torch.no_grad()
    def _add(self, x: Tensor, keys: Tensor) -> None:
        keys, first = _first_of_each(keys)
        x = x[first]
        lengths = self._counts(x)
        parts: list[Tensor] = [self._states]
        order = lengths.argsort(stable=True)  # batches of texts of similar length
        for rows in order.split(_BATCH):
            batch = x[rows] if x.is_floating_point() else x[rows, : int(lengths[rows[-1]])]
            hidden = self._compute(batch).to(torch.float16)
            ahead = torch.arange(hidden.shape[1], device=x.device)
            parts.append(hidden[ahead < lengths[rows, None]])
        starts = torch.empty_like(lengths)
        starts[order] = lengths[order].cumsum(0) - lengths[order] + len(self._states)
        added = {"keys": keys, "starts": starts, "lengths": lengths}
        columns = {k: torch.cat([self._stored[k], value]) for k, value in added.items()}
        self._store(columns | {"states": torch.cat(parts)})


def _empty(width: int) -> dict[str, Tensor]:
    none = torch.zeros(0, dtype=torch.int64)
    states = torch.zeros(0, width, dtype=torch.float16)
    return {"keys": none, "starts": none, "lengths": none, "states": states}


def _first_of_each(keys: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct keys, and the place of the first occurrence of each."""
    distinct, inverse = keys.unique(return_inverse=True)
    places = torch.arange(len(keys), device=keys.device)
    first = torch.full_like(distinct, len(keys)).scatter_reduce(0, inverse, places, "amin")
    return distinct, first


def _hashes(x: Tensor) -> Tensor:
    """Hashes (n,) int64 of the rows: their products with fixed random numbers, modulo 2^64.

    Pixels are compared by the bits of their float32 values.
    """
    rows = x.float().flatten(1).contiguous().view(torch.int32) if x.is_floating_point() else x
    factors = _factors(rows.shape[1]).to(x.device)
    return torch.cat([(part * factors).sum(1) for part in rows.split(_AT_ONCE)])


@lru_cache(maxsize=4)
def _factors(n: int) -> Tensor:
    """n odd random numbers, always the same ones."""
    rng = torch.Generator().manual_seed(_SEED)
    return 2 * torch.randint(-(1 << 62), 1 << 62, (n,), generator=rng) + 1
