"""Trials in float64, where the rounding error of a report has a useful bound.

Two ways of computing a gradient with n operations differ by delta = n * eps, relative to its terms.
Adam divides a gradient by its root mean square plus 1e-8. If a gradient is only rounding error (for
example that of a bias that the loss does not depend on), Adam's step is up to rate * delta / 1e-8.
With n = 10^3 and a rate of 0.02 this bound is 240 in float32, which is useless, and 4.4e-7 in
float64. In 20 steps the reports of a trial therefore differ by at most 8.9e-6 in float64.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from fewshot.functional import Params
from fewshot.models.mlp import MLP
from fewshot.tasks.functions import FunctionPool
from tests.rounding import default_dtype, rounding
from trials.contract import Recipe
from trials.lanes.lanes import Lanes
from trials.lanes.objective import NOTHING
from trials.programs.build import programs

_OURS = ("fewshot.", "trials.", "tests.")
_OPERATIONS, _STEPS, _RATE, _ADAM_EPS = 1e3, 20, 0.02, 1e-8

# The name of `DoubleMLP` in a recipe or a config.
DOUBLE_MLP = "tests.trials.double:DoubleMLP"

# Largest difference between reports of one trial in other lanes or on another device.
REPORTS = rounding(_OPERATIONS * _STEPS, torch.float64, condition=_RATE / _ADAM_EPS)


class DoubleMLP(MLP):
    """An MLP whose parameters and outputs are float64.

    A recipe with this model is computed in float64 by programs that a test does not build itself.
    """

    def init(self, generator: torch.Generator) -> Params:
        return {name: value.double() for name, value in super().init(generator).items()}

    def apply(self, params: Params, x: Tensor) -> Tensor:
        return super().apply(params, x.double())


class InDouble:
    """An objective all of whose floating-point numbers are float64."""

    def __init__(self, objective: Any) -> None:
        self._objective = _doubled(objective, {})

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objective, name)

    def init(self, seed: int, hyperparameters: Mapping[str, float] = NOTHING) -> Params:
        with default_dtype(torch.float32):  # float64 would draw other numbers
            drawn = self._objective.init(seed, hyperparameters)
        return {name: value.double() for name, value in drawn.items()}

    def batch(self, drawn: Any) -> Any:
        return tree_map(_double, self._objective.batch(drawn))


def lanes_in_double(objective: Any, **options: Any) -> Lanes:
    """The program of an objective in float64."""
    with default_dtype(torch.float64):
        return _lanes(InDouble(objective), **options)


def _lanes(objective: InDouble, **options: Any) -> Lanes:
    with default_dtype(torch.float64):  # for the program's own tensors
        return Lanes(objective, **options)


def programs_in_double(recipe: Recipe, cache: Path) -> partial[Lanes]:
    """As `trials.programs.build.programs`."""
    made = programs(recipe, cache)
    with default_dtype(torch.float64):
        return partial(_lanes, InDouble(*made.args), **made.keywords)


def build_in_double(recipe: Recipe, *, lanes: int, folder: Path, cache: Path) -> Lanes:
    """As `trials.programs.build.build`."""
    folder.mkdir(parents=True, exist_ok=True)
    return programs_in_double(recipe, cache)(lanes=lanes, folder=folder)


def _double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def _doubled(value: Any, known: dict[int, Any]) -> Any:
    """`value` with all its tensors in float64; objects of this project are changed in place."""
    if isinstance(value, Tensor):
        return _double(value)
    if isinstance(value, torch.nn.Module):
        return value.double()
    if isinstance(value, Mapping):
        found = {key: _doubled(part, known) for key, part in value.items()}
        return MappingProxyType(found) if isinstance(value, MappingProxyType) else found
    if isinstance(value, list | tuple):
        parts = [_doubled(part, known) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if id(value) not in known and type(value).__module__.startswith(_OURS):
        known[id(value)] = value
        for name, part in list(getattr(value, "__dict__", {}).items()):
            value.__dict__[name] = _doubled(part, known)
        if isinstance(value, FunctionPool):
            value.__dict__["families"] = tuple(partial(_of_family, f) for f in value.families)
    return value


def _of_family(family: Any, x: Tensor, key: Tensor) -> Tensor:
    return family(x.double(), key)
