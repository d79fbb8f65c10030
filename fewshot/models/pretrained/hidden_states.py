"""A store of hidden states of texts, which are computed once for each text.

States are kept in half precision, without padding. A file of them is mapped into memory, so that
several processes share one copy. A text is found by a 64-bit hash of its token ids; among a million
texts, the probability that any two have the same hash is 3e-8.
"""

import hashlib
import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from fewshot.models.pretrained.token_batches import token_counts
from fewshot.tasks.files import write_atomically

logger = logging.getLogger(__name__)

_BATCH = 64
_SEED = 0x5EED  # of the multipliers of the hash


class HiddenStates:
    """The hidden states of texts below a layer of a frozen encoder.

    compute: maps token ids (b, length) int64 to hidden states (b, length, width).
    padding: the id that fills the end of short texts.
    """

    def __init__(self, compute: Callable[[Tensor], Tensor], padding: int, width: int) -> None:
        self._compute, self._padding, self._width = compute, padding, width
        self._take(_empty(width), torch.device("cpu"))  # keys are in ascending order

    def __len__(self) -> int:
        return len(self._keys)

    def fill(self, ids: Tensor, cache: Path, source: str) -> None:
        """Add all texts of ids (n, length) from a file in `cache`, which is made if it is missing.

        source: identifies the encoder and the layer.
        """
        content = hashlib.sha256(source.encode() + ids.cpu().numpy().tobytes()).hexdigest()[:16]
        path = cache / f"hidden-{content}.safetensors"
        try:
            self._take(load_file(path), ids.device)
            return
        except (OSError, KeyError, SafetensorError):
            pass  # missing or damaged: computed again
        start = time.perf_counter()
        self._take(_empty(self._width), ids.device)
        self._add(ids, _hashes(ids))
        made = {"keys": self._keys, "starts": self._starts, "lengths": self._lengths}
        content = save(
            {name: value.cpu() for name, value in made.items()} | {"states": self._states.cpu()}
        )
        write_atomically(path, partial(_write, content=content))
        seconds = time.perf_counter() - start
        logger.info("hidden states texts=%d seconds=%.1f path=%s", len(self), seconds, path)
        self._take(load_file(path), ids.device)  # mapped, so that other processes share it

    def _take(self, stored: dict[str, Tensor], device: torch.device) -> None:
        self._keys, self._starts = stored["keys"].to(device), stored["starts"].to(device)
        self._lengths, self._states = stored["lengths"].to(device), stored["states"].to(device)

    def find(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The first state and the number of states, both (n,) int64, of texts with ids (n, length).

        The states of texts that are not in the store are computed and added.
        """
        keys = _hashes(ids)
        places = self._places(keys)
        unknown = (
            self._keys[places] != keys if len(self) else torch.ones_like(keys, dtype=torch.bool)
        )
        if unknown.any():
            self._add(ids[unknown], keys[unknown])
            places = self._places(keys)
        return self._starts[places], self._lengths[places]

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
    def _add(self, ids: Tensor, keys: Tensor) -> None:
        keys, first = _first_of_each(keys)
        ids = ids[first]
        lengths = token_counts(ids, self._padding)
        parts: list[Tensor] = [self._states]
        order = lengths.argsort(stable=True)  # batches of texts of similar length
        for rows in order.split(_BATCH):
            hidden = self._compute(ids[rows, : int(lengths[rows[-1]])]).to(torch.float16)
            ahead = torch.arange(hidden.shape[1], device=ids.device)
            parts.append(hidden[ahead < lengths[rows, None]])
        starts = torch.empty_like(lengths)
        starts[order] = lengths[order].cumsum(0) - lengths[order] + len(self._states)
        keys = torch.cat([self._keys, keys])
        by_key = keys.argsort()
        self._keys = keys[by_key]
        self._starts = torch.cat([self._starts, starts])[by_key]
        self._lengths = torch.cat([self._lengths, lengths])[by_key]
        self._states = torch.cat(parts)


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


def _hashes(ids: Tensor) -> Tensor:
    """Hashes (n,) int64 of the rows: their products with fixed random numbers, modulo 2^64."""
    rng = torch.Generator().manual_seed(_SEED)
    factors = torch.randint(-(1 << 62), 1 << 62, (ids.shape[1],), generator=rng)
    return (ids * (2 * factors + 1).to(ids.device)).sum(1)


def _write(file: BinaryIO, content: bytes) -> None:
    file.write(content)
