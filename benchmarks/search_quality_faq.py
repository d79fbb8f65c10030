"""Task weights as Optuna's FAQ proposes: independent numbers whose logarithms are normalised."""

import math
from collections.abc import Mapping

import numpy as np

from orchestrator.space.simplex import Simplex

_LEAST = 1e-12


class FaqSimplex(Simplex):
    """w_i = log x_i / sum_j log x_j, with x_i in [0, 1]: uniform on the simplex if x is.

    The coordinates are x_i, stretched to the box. "How can I generate proportions that sum to 1?",
    https://optuna.readthedocs.io/en/stable/faq.html
    """

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"x{i}" for i in range(len(self.tasks)))

    def decode(self, coordinates: Mapping[str, float]) -> dict[str, float]:
        z = np.array([coordinates[name] for name in self.names])
        logs = -np.log(((z / self.box + 1) / 2).clip(_LEAST, 1 - _LEAST))
        return dict(zip(self.tasks, (logs / logs.sum()).tolist(), strict=True))

    def encode(self, weights: Mapping[str, float]) -> dict[str, float]:
        n = len(self.tasks)
        x = [math.exp(-n * weights.get(task, 0.0)) for task in self.tasks]
        return {name: (2 * each - 1) * self.box for name, each in zip(self.names, x, strict=True)}

    def group_shares(self, weights: np.ndarray) -> np.ndarray:
        return weights

    def encode_nearest(self, shares: np.ndarray) -> dict[str, float]:
        return self.encode(dict(zip(self.tasks, shares.tolist(), strict=True)))
