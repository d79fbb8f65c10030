"""The learners by name."""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, cast

from fewshot.errors.inputs import input_error
from fewshot.learners.base import ClassLoss, CustomLoss, Learner
from fewshot.learners.baseline import Baseline
from fewshot.learners.fine_tuned import FineTunedProtoNet
from fewshot.learners.gradient.maml import MAML
from fewshot.learners.gradient.meta_sgd import MetaSGD
from fewshot.learners.gradient.reptile import Reptile
from fewshot.learners.metric.matching import MatchingNet
from fewshot.learners.metric.modal_protonet import ModalProtoNet
from fewshot.learners.metric.protonet import ProtoNet
from fewshot.learners.metric.ridge import Ridge
from fewshot.learners.metric.simpleshot import SimpleShot
from fewshot.registry import options_of, resolve


class LearnerFactory(Protocol):
    """Makes a learner from `model`, `way` and its options, and from `kind` if it can regress."""

    hyperparameters: tuple[str, ...]
    model_scores_classes: bool

    def __call__(self, *nothing: Any, **options: Any) -> Learner:
        """A learner."""


class _Variant(partial[Learner]):
    """A learner class with some options fixed. Its class attributes are those of the class."""

    @property
    def hyperparameters(self) -> tuple[str, ...]:
        names: tuple[str, ...] = self.func.hyperparameters  # type: ignore[attr-defined]
        return names

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
    "modal_protonet": ModalProtoNet,
    "fine_tuned_protonet": FineTunedProtoNet,
    "ridge": Ridge,
    "simpleshot": SimpleShot,
    "baseline": Baseline,
    "baseline_pp": _Variant(Baseline, cosine=True),
}


def learner_named(name: str, path: str = "learner.name") -> LearnerFactory:
    """The factory of the learner `name`, from `LEARNERS` or of a user.

    Raises InputError if there is none, or if it lacks an attribute of `LearnerFactory`.
    """
    factory = resolve(LEARNERS, name, path)
    missing = [each for each in LearnerFactory.__annotations__ if not hasattr(factory, each)]
    if missing:
        rule = f"must be a class that defines {' and '.join(missing)}."
        remedy = "Class attributes are read before a learner is built."
        raise input_error(path, rule, name, remedy)
    return cast(LearnerFactory, factory)


def supports_regression(learner: Callable[..., Learner]) -> bool:
    """Whether the factory has the option `kind`, so that the learner can do regression too."""
    return "kind" in options_of(learner, ())


def learns_all_classes(learner: Callable[..., Learner]) -> bool:
    """Whether the factory has the option `classes`: the learner classifies all of a task's classes.

    The option takes the number of classes of each training task.
    """
    return "classes" in options_of(learner, ())


def has_custom_loss(learner: Callable[..., Learner]) -> bool:
    """Whether the learner is trained by its own loss; the learner need not be built."""
    return isinstance(getattr(learner, "func", learner), CustomLoss | ClassLoss)


# Learners that can do regression too.
REGRESSORS = frozenset(name for name, made in LEARNERS.items() if supports_regression(made))
