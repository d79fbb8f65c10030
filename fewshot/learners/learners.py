"""The learners by name."""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, cast

from fewshot.errors.inputs import input_error
from fewshot.learners.base import ClassLoss, Learner, OwnLoss
from fewshot.learners.baseline import Baseline
from fewshot.learners.maml import MAML
from fewshot.learners.matching import MatchingNet
from fewshot.learners.meta_sgd import MetaSGD
from fewshot.learners.protonet import ProtoNet
from fewshot.learners.reptile import Reptile
from fewshot.learners.ridge import Ridge
from fewshot.learners.simpleshot import SimpleShot
from fewshot.registry import options_of, resolve


class LearnerFactory(Protocol):
    """Makes a learner of `model`, `way`, its options, and `kind` if it can learn numbers."""

    hyperparameters: tuple[str, ...]
    model_scores_classes: bool

    def __call__(self, *nothing: Any, **options: Any) -> Learner:
        """A learner."""


class _Variant(partial[Learner]):
    """A learner with some of its options decided. What it says of itself is what its class says."""

    @property
    def hyperparameters(self) -> tuple[str, ...]:
        found: tuple[str, ...] = self.func.hyperparameters  # type: ignore[attr-defined]
        return found

    @property
    def model_scores_classes(self) -> bool:
        return bool(self.func.model_scores_classes)  # type: ignore[attr-defined]


# Each takes `model`, `way` and its options.
LEARNERS: dict[str, Callable[..., Learner]] = {
    "maml": MAML,
    "fomaml": _Variant(MAML, first_order=True),
    "anil": _Variant(MAML, inner="head"),
    "meta_sgd": MetaSGD,
    "reptile": Reptile,
    "matching": MatchingNet,
    "protonet": ProtoNet,
    "ridge": Ridge,
    "simpleshot": SimpleShot,
    "baseline": Baseline,
    "baseline_pp": _Variant(Baseline, cosine=True),
}


def learner_named(name: str, path: str = "learner.name") -> LearnerFactory:
    """The learner `name`, of `LEARNERS` or a user's own, not yet built.

    Raises InputError where there is none, or where it does not say what it reads.
    """
    found = resolve(LEARNERS, name, path)
    silent = [said for said in LearnerFactory.__annotations__ if not hasattr(found, said)]
    if silent:
        rule = f"must be a class that says {' and '.join(silent)}."
        raise input_error(path, rule, name, "They are known before a learner is built.")
    return cast(LearnerFactory, found)


def learns_numbers(learner: Callable[..., Learner]) -> bool:
    """Whether it takes the `kind` of what is to be learned, and so can do without classes."""
    return "kind" in options_of(learner, ())


def learns_all_classes(learner: Callable[..., Learner]) -> bool:
    """Whether it takes `classes`, how many each training task has, and learns to tell all apart."""
    return "classes" in options_of(learner, ())


def has_own_loss(learner: Callable[..., Learner]) -> bool:
    """Whether it is by a loss of its own that it is trained; known without building it."""
    return isinstance(getattr(learner, "func", learner), OwnLoss | ClassLoss)


# Those that learn numbers too.
REGRESSORS = frozenset(name for name, made in LEARNERS.items() if learns_numbers(made))
